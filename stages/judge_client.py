"""The one place that speaks to a chat model over the network: the judge, or a server in the teacher's place.

The key comes from OPENAI_API_KEY, is sent to `base_url` and to nowhere else, and is neither printed nor written.
No redirection is followed, and this machine is never reached through a proxy.
"""

from __future__ import annotations

import asyncio
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
    import httpx2 as httpx
    import openai

_LARGEST_ANSWER = 2**24  # bytes
_BAD_HEADER = (
    "a request cannot carry what OPENAI_ORG_ID, OPENAI_PROJECT_ID or OPENAI_CUSTOM_HEADERS holds; correct or unset it"
)


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
    import httpx2 as httpx
    import openai

    try:
        httpx.URL(chat.base_url)
    except httpx.InvalidURL as error:
        raise SettingsError(f"{chat.base_url} is no address ({error}); correct `base_url`") from None
    # Connecting has the shorter limit: what was never connected was never taken, and is not counted as spent.
    timeout = httpx.Timeout(server.timeout, connect=0.9 * server.timeout, pool=None)
    http = httpx.AsyncClient(
        timeout=timeout,
        headers={"Accept-Encoding": "identity"},
        limits=httpx.Limits(max_connections=server.concurrency),
        event_hooks={"response": [_limit_size]},
        **connection(chat.base_url),
    )
    # No retries of its own: each one counts against the budget here.
    async with openai.AsyncOpenAI(
        api_key=key, base_url=chat.base_url, timeout=timeout, max_retries=0, http_client=http
    ) as client:
        yield _Speaker(client, chat, server.timeout, Redactor(key)).send


async def _limit_size(response: httpx.Response) -> None:
    """Let a body end in an error where it grows beyond any reply."""
    import httpx2 as httpx

    # A server may compress all the same, by up to a thousand.
    limit = _LARGEST_ANSWER if "content-encoding" not in response.headers else _LARGEST_ANSWER >> 8

    async def pieces(stream: Any) -> AsyncIterator[bytes]:
        size = 0
        async for piece in stream:
            size += len(piece)
            if size > limit:
                raise LostReplyError(f"the response is larger than {limit / 2**20:g} MiB")
            yield piece

    class Limited(httpx.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __aiter__(self) -> AsyncIterator[bytes]:
            return pieces(self._stream)

        async def aclose(self) -> None:
            await self._stream.aclose()

    response.stream = Limited(response.stream)


class _Speaker:
    def __init__(self, client: openai.AsyncOpenAI, chat: ChatSettings, seconds: float, redactor: Redactor) -> None:
        self._chat, self._seconds, self._redactor = chat, seconds, redactor
        self._create = client.chat.completions.with_raw_response.create  # imported now: no call waits for it
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
        import httpx2 as httpx
        import openai

        try:
            # The libraries' own limit holds for each read: a byte a second would never end.
            async with asyncio.timeout(self._seconds):
                answer = await self._create(**body)
            return answer.status_code, answer.headers, answer.text
        except openai.APIStatusError as error:
            return error.status_code, error.response.headers, error.response.text
        except openai.APIConnectionError as error:
            cause = error.__cause__
            if isinstance(cause, httpx.LocalProtocolError):  # never sent; the key itself was looked at before
                raise SettingsError(_BAD_HEADER) from None
            if isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError):
                why = f" ({self._redactor.message(str(cause))})" if "CERTIFICATE" in str(cause) else ""
                raise NotTakenError(f"no connection to {self._chat.base_url}{self._proxy}{why}") from None
            if isinstance(error, openai.APITimeoutError) or isinstance(cause, httpx.TimeoutException):
                raise LostReplyError("timed out") from None
            raise LostReplyError(f"connection lost{self._proxy}") from None  # its words may be the server's
        except TimeoutError:
            raise LostReplyError("timed out") from None
        except UnicodeEncodeError as error:
            if error.encoding != "ascii":
                raise
            raise SettingsError(_BAD_HEADER) from None


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "response_format"}
