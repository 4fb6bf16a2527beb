"""What the replies kept so far say to a request: a usable answer, that there will be none, or nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from distill.judging.chat import ChatRequest, Reply, UnusableReplyError
from distill.judging.purchases import Purchases

Accept = Callable[[Reply], object]
"""Raises UnusableReplyError for a reply that is of no use."""


@dataclass(frozen=True)
class Answer:
    """A usable reply, or why there is none."""

    reply: Reply | None
    unanswered: str = ""
    """Opens with its kind: `refusal`, `reply`, `server`, `rejected` or `budget`."""


def kept_answer(request: ChatRequest, purchases: Purchases, accept: Accept, attempts: int) -> Answer | None:
    """What was bought before: a usable reply, or that enough were bought; None when one may still be asked for."""
    replies = purchases.replies(request.key)
    fault: UnusableReplyError | None = None
    for reply in replies:
        try:
            accept(reply)
        except UnusableReplyError as error:
            fault = error
        else:
            return Answer(reply)
    if fault is None or (fault.again and request.varies and len(replies) < attempts):
        return None
    return Answer(None, str(fault))


def to_buy(requests: Iterable[ChatRequest], purchases: Purchases, accept: Accept, attempts: int) -> list[ChatRequest]:
    """The requests that nothing kept answers, equal ones once."""
    wanted = {request.key: request for request in requests}
    return [r for r in wanted.values() if kept_answer(r, purchases, accept, attempts) is None]
