"""The state of a request by its kept replies: answered, given up, or still open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from distill.judging.chat import ChatRequest, Reply, UnusableReplyError
from distill.judging.purchases import Purchases

Accept = Callable[[Reply], object]
"""Raises UnusableReplyError for a useless reply."""


@dataclass(frozen=True)
class Answer:
    """A usable reply, or the reason for its lack."""

    reply: Reply | None
    unanswered: str = ""
    """Opens with its kind: `refusal`, `reply`, `server`, `rejected` or `budget`."""


_FEW = 0.05
_NO_REPLY = ("rejected", "server")


def lost_fault(reasons: Counter[str], asked: int) -> str | None:
    """A sentence when more than a twentieth of what was asked got no reply from the server; None otherwise.

    `reasons` counts `Answer.unanswered`. The rest would be a sample that the server chose.
    """
    lost = Counter({reason: count for reason, count in reasons.items() if reason.split(":")[0] in _NO_REPLY})
    if lost.total() <= _FEW * asked:
        return None
    return (
        f"{lost.total()} of {asked} got no reply from the server, most for this reason: {lost.most_common(1)[0][0]}; "
        "what came is kept: see to the server or the account, or ask about less, then run the same command to continue"
    )


def kept_answer(request: ChatRequest, purchases: Purchases, accept: Accept, attempts: int) -> Answer | None:
    """The outcome by earlier purchases: a usable reply, or too many useless ones; None while one may be asked for."""
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
    """The requests without a kept answer, equal ones once."""
    wanted = {request.key: request for request in requests}
    return [r for r in wanted.values() if kept_answer(r, purchases, accept, attempts) is None]
