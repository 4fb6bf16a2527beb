"""The one place that speaks to a chat model over the network: the judge, or a server in the teacher's place.

The key comes from OPENAI_API_KEY, is sent to `base_url` and to nowhere else, and is neither printed nor written.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from distill.judging.answers import Accept, Answer, kept_answer
from distill.judging.budget import Budget
from distill.judging.buying import Buyer, Send
from distill.judging.chat import (
    ChatRequest,
    LostReplyError,
    NotTakenError,
    RejectedError,
    Reply,
    read_completion,
    retry_after,
)
from distill.judging.purchases import open_purchases
from distill.judging.settings import KEY_VARIABLE, NO_KEY, BudgetSettings, ChatSettings, ServerSettings, has_key
from distill.project.errors import DistillError, SettingsError
from distill.project.progress import Progress

if TYPE_CHECKING:
    import openai

_LONGEST_MESSAGE = 200
_SHORTEST_SECRET = 8  # a key like "none" is no secret, and the word may stand in any message
# Connecting failed, so nothing was taken. By name: the HTTP library below openai is openai's own affair.
_NEVER_CONNECTED = ("ConnectError", "ConnectTimeout", "PoolTimeout")


def get_answers(
    purpose: str,
    name: str,
    requests: Sequence[ChatRequest],
    accept: Accept,
    chat: ChatSettings,
    budget: BudgetSettings,
    server: ServerSettings,
) -> dict[str, Answer]:
    """The answer to each request by its key: kept ones, and the others bought as far as the budget goes.

    `name` stands before the progress. Raises: DistillError, with all that was bought kept.
    """
    with open_purchases() as purchases:
        wanted = {request.key: request for request in requests}
        answers = {key: kept_answer(request, purchases, accept, chat.attempts) for key, request in wanted.items()}
        missing = [wanted[key] for key, answer in answers.items() if answer is None]
        found = {key: answer for key, answer in answers.items() if answer is not None}
        if not missing:
            return found
        if budget.dry_run:
            return found | {request.key: Answer(None, "budget: dry run") for request in missing}
        if not has_key(os.environ):
            raise SettingsError(
                f"{len(missing)} replies of {chat.model} are to be bought but there is no key; {NO_KEY}"
            )
        with Progress(name, len(wanted), unit="answer", start=len(found)) as progress:
            spent = Budget(budget, purpose, purchases.all)

            def advance() -> None:
                progress.advance(1, **({} if budget.input_price is None else {"us_dollars": spent.cost}))

            async def buy() -> dict[str, Answer]:
                async with connect(chat, server, os.environ[KEY_VARIABLE].strip()) as send:
                    replied = any(answer.reply is not None for answer in found.values())
                    buyer = Buyer(send, accept, purchases, spent, server, chat.attempts, replied)
                    return await buyer.buy(missing, advance)

            return found | asyncio.run(buy())


@asynccontextmanager
async def connect(chat: ChatSettings, server: ServerSettings, key: str) -> AsyncIterator[Send]:
    """A function that sends one request and returns its reply, or raises the errors of distill/judging/chat.py."""
    import openai

    # No retries of its own: each one counts against the budget here.
    async with openai.AsyncOpenAI(api_key=key, base_url=chat.base_url, timeout=server.timeout, max_retries=0) as client:
        speaker = _Speaker(client, chat, key)
        yield speaker.send


class _Speaker:
    def __init__(self, client: openai.AsyncOpenAI, chat: ChatSettings, key: str) -> None:
        self._client, self._chat, self._key = client, chat, key
        self._plain_only = False

    async def send(self, request: ChatRequest) -> Reply:
        """One call, and a second without the schema where the server does not take one."""
        if "response_format" in request.body and not self._plain_only:
            try:
                return await self._call(request, request.body)
            except RejectedError:
                reply = await self._call(request, _plain(request.body))
            self._plain_only = True
            return reply
        return await self._call(request, _plain(request.body))

    async def _call(self, request: ChatRequest, body: dict[str, Any]) -> Reply:
        import openai

        try:
            response = await self._client.chat.completions.with_raw_response.create(**body)
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except openai.APITimeoutError as error:
            raise self._connection_error(error, "timed out") from None
        except openai.APIConnectionError as error:
            raise self._connection_error(error, "connection lost") from None
        return read_completion(response.text, request)

    def _connection_error(self, error: openai.APIConnectionError, reason: str) -> Exception:
        if type(error.__cause__).__name__ in _NEVER_CONNECTED:
            return NotTakenError(f"no connection to {self._chat.base_url}")
        return LostReplyError(reason)

    def _status_error(self, error: openai.APIStatusError) -> Exception:
        status, chat = error.status_code, self._chat
        if status in (401, 403):  # the server's words may repeat the key: they are left out
            return DistillError(f"{chat.base_url} does not accept the key ({status}); correct {KEY_VARIABLE}")
        said = self._redact(str(error.message))
        if status == 404:
            return DistillError(
                f"{chat.base_url} does not know the model `{chat.model}`, or the address lacks its /v1 ({said}); "
                "correct `model` or `base_url`"
            )
        if error.code == "insufficient_quota":
            return DistillError(f"the account has no credit left ({said}); add some, then run the same command")
        if status in (408, 409, 425, 429) or status >= 500:
            return NotTakenError(f"status {status}", retry_after(error.response.headers), busy=status == 429)
        return RejectedError(f"status {status}: {said}")

    def _redact(self, text: str) -> str:
        if len(self._key) >= _SHORTEST_SECRET:
            text = text.replace(self._key, "[key]")
        return " ".join(text.split())[:_LONGEST_MESSAGE]


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "response_format"}
