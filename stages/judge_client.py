"""The one place that speaks to a chat model over the network: the judge, or a server in the teacher's place.

The key comes from OPENAI_API_KEY, is sent to `base_url` and to nowhere else, and is neither printed nor written.
No redirection is followed, and this machine is never reached through a proxy.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from distill.judging.answers import Accept, Answer, kept_answer
from distill.judging.budget import Budget
from distill.judging.buying import Buyer, Send
from distill.judging.chat import ChatRequest, LostReplyError, NotTakenError, RejectedError, Reply
from distill.judging.completion import error_in, read_completion
from distill.judging.purchases import open_purchases
from distill.judging.secrets import Redactor
from distill.judging.settings import NO_KEY, BudgetSettings, ChatSettings, ServerSettings, read_key
from distill.judging.statuses import status_fault
from distill.project.errors import SettingsError
from distill.project.network import connection, proxy_of
from distill.project.progress import Progress

if TYPE_CHECKING:
    import httpx

_LARGEST_ANSWER = 2**24  # bytes
_PIECE = 2**16


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
        if not (secret := read_key(os.environ)):
            raise SettingsError(
                f"{len(missing)} replies of {chat.model} are to be bought but there is no key; {NO_KEY}"
            )
        with Progress(name, len(wanted), unit="answer", start=len(found)) as progress:
            spent = Budget(budget, purpose, purchases.all)

            def advance() -> None:
                progress.advance(1, **({} if budget.input_price is None else {"us_dollars": spent.cost}))

            async def buy() -> dict[str, Answer]:
                async with connect(chat, server, secret) as send:
                    replied = any(answer.reply is not None for answer in found.values())
                    buyer = Buyer(send, accept, purchases, spent, server, chat.attempts, replied)
                    return await buyer.buy(missing, advance)

            return found | asyncio.run(buy())


@asynccontextmanager
async def connect(chat: ChatSettings, server: ServerSettings, key: str) -> AsyncIterator[Send]:
    """A function that sends one request and returns its reply, or raises the errors of distill/judging/chat.py."""
    import httpx

    # Connecting has the shorter limit: what was never connected was never taken, and is not counted as spent.
    timeout = httpx.Timeout(server.timeout, connect=0.9 * server.timeout, pool=None)
    limits = httpx.Limits(max_connections=server.concurrency)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(
        headers=headers, timeout=timeout, limits=limits, **connection(chat.base_url)
    ) as client:
        yield _Speaker(client, chat, server.timeout, Redactor(key)).send


class _Speaker:
    def __init__(self, client: httpx.AsyncClient, chat: ChatSettings, seconds: float, redactor: Redactor) -> None:
        self._client, self._chat, self._seconds, self._redactor = client, chat, seconds, redactor
        self._url = f"{chat.base_url.rstrip('/')}/chat/completions"
        proxy = proxy_of(chat.base_url)
        self._proxy = "" if proxy is None else f" through {proxy}"
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
        status, headers, text = await self._post(body)
        if 200 <= status < 300:
            told = error_in(text)
            if told is None:
                return read_completion(text, request, self._redactor.answer)
            if told[0] is None:
                raise NotTakenError(f"an error in place of a reply: {self._redactor.message(told[1])}")
            status = told[0]
        raise status_fault(status, headers, text, self._chat, self._redactor, self._proxy)

    async def _post(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], str]:
        """Send one body; the status, the headers and the text of the answer, under one limit of time and of size."""
        import httpx

        content, pieces, size = json.dumps(body).encode(), [], 0
        try:
            # httpx's own limit holds for each read: a byte a second would never end.
            async with (
                asyncio.timeout(self._seconds),
                self._client.stream("POST", self._url, content=content) as response,
            ):
                async for piece in response.aiter_bytes(_PIECE):
                    pieces.append(piece)
                    size += len(piece)
                    if size > _LARGEST_ANSWER:
                        raise LostReplyError(f"the response is larger than {_LARGEST_ANSWER >> 20} MiB")
                encoding = response.encoding or "utf-8"
                return response.status_code, response.headers, b"".join(pieces).decode(encoding, errors="replace")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            why = f" ({self._redactor.message(str(error))})" if "CERTIFICATE" in str(error) else ""
            raise NotTakenError(f"no connection to {self._chat.base_url}{self._proxy}{why}") from None
        except (TimeoutError, httpx.TimeoutException):
            raise LostReplyError("timed out") from None
        except httpx.InvalidURL:
            raise SettingsError(f"{self._chat.base_url} is no address; correct `base_url`") from None
        except httpx.HTTPError:  # its words may be the server's
            raise LostReplyError(f"connection lost{self._proxy}") from None


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "response_format"}
