"""Get a usable reply to each of many requests: a kept one, or a bought one, several at a time.

Kept replies come first. A call that the server does not take (429, 5xx) or that is lost on the way is tried again
after a pause, the server's own if it names one. A useless reply is asked for again if another may differ. A request
without a reply gets the reason; many of those in a row, or many useless replies, end the run. Ctrl-C lets the calls
under way arrive, since they are paid.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from distill.judging.answers import Accept, Answer, kept_answer
from distill.judging.budget import Budget, price
from distill.judging.chat import (
    ChatRequest,
    LostReplyError,
    NotTakenError,
    RejectedError,
    Reply,
    UnusableReplyError,
    estimate_tokens,
)
from distill.judging.purchases import Purchase, Purchases
from distill.judging.settings import ServerSettings
from distill.judging.two_signals import interruptible
from distill.project.errors import DistillError

Send = Callable[[ChatRequest], Awaitable[Reply]]
_NOT_REPLIED = ("server:", "rejected:")
_MOST_DOUBLINGS = 32  # doublings of a pause, far beyond its limit


@dataclass(frozen=True)
class _Fault:
    """The fault of a call that may be tried again."""

    reason: str
    busy: bool = False
    said: str = ""


class Buyer:
    """Buys replies for one purpose from one server."""

    def __init__(
        self,
        send: Send,
        accept: Accept,
        purchases: Purchases,
        budget: Budget,
        server: ServerSettings,
        attempts: int,
        replied: bool = False,
    ) -> None:
        """`send` raises the errors of distill/judging/chat.py, or a DistillError that ends the run.

        `replied`: whether the server is known to take such requests.
        """
        self._send, self._accept, self._purchases, self._budget = send, accept, purchases, budget
        self._server, self._attempts = server, attempts
        self._under_way, self._replied = 0, replied
        self._failed_in_a_row, self._useless_in_a_row = 0, 0
        self._replies, self._opens_at = 0, 0.0
        self._error: DistillError | None = None

    async def buy(self, requests: Iterable[ChatRequest], advance: Callable[[], None]) -> dict[str, Answer]:
        """The answer to each request by its key; equal requests are asked once.

        Raises: DistillError when the server cannot be used, KeyboardInterrupt after Ctrl-C or SIGTERM. Replies
        bought until then are kept.
        """
        self._stop, self._settled = asyncio.Event(), asyncio.Condition()
        answers: dict[str, Answer] = {}
        waiting = deque({request.key: request for request in requests}.values())
        asked = len(waiting)

        async def work() -> None:
            ended = False
            try:
                while waiting and not self._stop.is_set():
                    request = waiting.popleft()
                    answer = await self._answer(request)
                    if answer is not None:
                        answers[request.key] = answer
                        advance()
                ended = True
            finally:
                if not ended:  # a bug, or cancelled: the others must not go on spending
                    self._stop.set()

        workers = [asyncio.create_task(work()) for _ in range(min(self._server.concurrency, asked))]

        def drop() -> None:
            for worker in workers:
                worker.cancel()

        with interruptible(self._end_softly, drop) as interrupted:
            await asyncio.gather(*workers, return_exceptions=True)
        if interrupted:
            raise KeyboardInterrupt
        for worker in workers:
            worker.result()  # a bug keeps its traceback
        if self._error is not None:
            raise self._error
        failed = [answer.unanswered for answer in answers.values() if answer.unanswered.startswith(_NOT_REPLIED)]
        if failed and not self._replied:
            raise _no_use(len(failed), failed[-1])
        return answers

    async def _answer(self, request: ChatRequest) -> Answer | None:
        """Ask until there is an answer; None if the run stops first."""
        tries, pauses, replies = 0, 0, self._replies
        while True:
            kept = kept_answer(request, self._purchases, self._accept, self._attempts)
            if kept is not None:
                return kept
            await self._wait_for_the_server()
            if self._stop.is_set():
                return None
            if over := await self._reserve(request):
                return Answer(None, f"budget: {over}")
            if self._stop.is_set():
                self._budget.release(request)
                return None
            try:
                fault = await self._call(request)
            except RejectedError as error:
                return self._failed(f"rejected: {error}")
            if fault is None:
                tries, pauses = 0, 0
                continue
            if self._stop.is_set():
                return None
            # A busy server that replies to other requests has not failed this one: try it later.
            tries = 0 if fault.busy and self._replies > replies else tries + 1
            replies = self._replies
            if tries > self._server.retries:
                return self._failed(f"server: {fault.reason} ({tries} tries){f': {fault.said}' if fault.said else ''}")
            if self._opens_at <= time.monotonic():
                wait = min(self._server.first_wait * 2.0**pauses, self._server.longest_wait)
                # Spread the pauses: requests that failed together would otherwise return together.
                await self._sleep(wait * random.uniform(0.75, 1.0))
                pauses = min(pauses + 1, _MOST_DOUBLINGS)

    async def _call(self, request: ChatRequest) -> _Fault | None:
        """Make one call and keep the reply. Returns the fault if trying again may help.

        Raises: RejectedError.
        """
        self._under_way += 1
        purchase, fault = None, None
        try:
            reply = await self._send(request)
        except LostReplyError as error:
            fault = _Fault(str(error))
            purchase = self._lost(request, fault.reason)
        except NotTakenError as error:
            fault = _Fault(str(error), error.busy, error.said)
            self._obey(error)
        except DistillError as error:
            self._halt(error)
        except asyncio.CancelledError:
            purchase = self._lost(request, "dropped")
            raise
        else:
            self._replied, self._failed_in_a_row = True, 0
            self._replies += 1
            purchase = self._purchase(request, reply, reply.tokens_in, reply.tokens_out)
            self._weigh(reply)
        finally:
            self._under_way -= 1
            self._budget.release(request, purchase)
            async with self._settled:
                self._settled.notify_all()
        return fault

    def _weigh(self, reply: Reply) -> None:
        """Count useless replies in a row, which are paid for; too many, and nothing more is bought."""
        try:
            self._accept(reply)
        except UnusableReplyError as error:
            self._useless_in_a_row += 1
            if self._useless_in_a_row >= self._server.give_up_after:
                self._halt(
                    DistillError(
                        f"{self._useless_in_a_row} replies in a row are of no use, the last for this reason: {error}; "
                        "all replies are kept: correct the settings of the model, then run the same command to continue"
                    )
                )
        else:
            self._useless_in_a_row = 0

    def _purchase(
        self, request: ChatRequest, reply: Reply | None, tokens_in: int, tokens_out: int, lost: str | None = None
    ) -> Purchase:
        cost = price(self._budget.settings, tokens_in, tokens_out)
        purchase = Purchase(request.key, self._budget.purpose, cost, tokens_in, tokens_out, reply, lost)
        try:
            self._purchases.append(purchase)
        except DistillError as error:
            self._halt(error)  # a reply that cannot be kept would be bought again: buy no more
        return purchase

    def _lost(self, request: ChatRequest, reason: str) -> Purchase:
        """Count a call that was perhaps billed, at its highest price."""
        return self._purchase(request, None, estimate_tokens(request.prompt), request.longest_reply, reason)

    async def _reserve(self, request: ChatRequest) -> str | None:
        """Reserve a call's price; wait first for calls under way, whose reserve may become free."""
        async with self._settled:
            while (over := self._budget.reserve(request)) and self._under_way:
                await self._settled.wait()
        return over

    def _obey(self, error: NotTakenError) -> None:
        """Let all calls wait as long as the server asks one to."""
        if error.retry_after is None:
            return
        if error.retry_after > self._server.longest_wait:
            self._halt(
                DistillError(
                    f"the server asks to wait {error.retry_after:.0f} s ({error}), more than `server.longest_wait`; "
                    "all replies so far are kept: run the same command later, or raise that setting"
                )
            )
        self._opens_at = max(self._opens_at, time.monotonic() + error.retry_after)

    def _failed(self, reason: str) -> Answer:
        """Count a request that no reply came to; too many in a row, and nothing more is sent.

        One rejected request may be too long; many in a row are a fault of the settings or of the account.
        """
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._server.give_up_after:
            self._halt(_no_use(self._failed_in_a_row, reason))
        return Answer(None, reason)

    def _halt(self, error: DistillError) -> None:
        self._error = self._error or error
        self._stop.set()

    def _end_softly(self) -> None:
        self._stop.set()
        print(f"waiting for {self._under_way} call(s) under way; once more drops them", file=sys.stderr)

    async def _wait_for_the_server(self) -> None:
        while (seconds := self._opens_at - time.monotonic()) > 0 and not self._stop.is_set():
            await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, unless the run stops."""
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return


def _no_use(count: int, reason: str) -> DistillError:
    return DistillError(
        f"no reply came to {count} request(s) in a row, the last for this reason: {reason}; all replies so far are "
        "kept: see to the server or the settings, then run the same command to continue"
    )
