"""A question to a chat model and its reply, in the format of OpenAI's chat completions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

from distill.judging.settings import ChatSettings


class NotTakenError(Exception):
    """The server did not take the request (429, 5xx, no connection): nothing was billed; try again later."""

    def __init__(self, reason: str, retry_after: float | None = None, busy: bool = False) -> None:
        """`retry_after`: seconds to wait, by the server's wish; `busy`: it has too many requests (429)."""
        super().__init__(reason)
        self.retry_after, self.busy = retry_after, busy


class LostReplyError(Exception):
    """The request was taken, and perhaps billed, but no reply arrived: timeout, dropped connection, damage."""


class RejectedError(Exception):
    """The server will never take this request, e.g. because it is too long for the model."""


class UnusableReplyError(Exception):
    """A useless reply arrived; `again`: whether another may be better."""

    def __init__(self, reason: str, again: bool) -> None:
        """`reason` opens with its kind, e.g. `refusal: …`."""
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True)
class ChatRequest:
    """A question, with all settings that its answer depends on."""

    base_url: str
    body: dict[str, Any]
    """As sent."""
    sample: int = 0
    """Tells apart several answers wanted to one question."""

    @cached_property
    def key(self) -> str:
        """The content hash under which replies are kept: prompt, answers in it, model and settings."""
        content = [self.base_url.rstrip("/"), self.body, self.sample]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def prompt(self) -> str:
        """The text of all messages."""
        return "\n".join(message["content"] for message in self.body["messages"])

    @property
    def longest_reply(self) -> int:
        """Tokens."""
        return int(self.body.get("max_tokens") or self.body["max_completion_tokens"])

    @property
    def varies(self) -> bool:
        """Whether another call can bring another reply."""
        return self.body.get("temperature") != 0


def chat_request(settings: ChatSettings, prompt: str, sample: int = 0, **body: Any) -> ChatRequest:
    """A request with `prompt` as its one message; `body` adds fields, those that are None left out."""
    fields = {
        "model": settings.model,
        "messages": [{"role": "user", "content": prompt}],
        settings.token_limit: settings.max_tokens,
        **{name: value for name, value in body.items() if value is not None},
    }
    return ChatRequest(settings.base_url, fields, sample)


@dataclass(frozen=True)
class Reply:
    """A model's answer, and its tokens."""

    text: str
    refusal: str | None
    finish: str | None
    """`stop`, `length`, `content_filter`, …"""
    model: str
    """As the server names it."""
    tokens_in: int
    tokens_out: int


def question_of(instruction: str, input: str) -> str:
    """An instruction and the text it is about, as a person would send them."""
    return f"{instruction}\n\n{input}" if input.strip() else instruction


def estimate_tokens(text: str) -> int:
    """An upper guess at the tokens of a text: 3 bytes a token, and a few for the frame."""
    return len(text.encode(errors="replace")) // 3 + 8


def read_completion(body: str, request: ChatRequest) -> Reply:
    """The reply in a server's response body; tokens are estimated where the server does not tell them.

    Raises: LostReplyError when it is not a chat completion.
    """
    try:
        content = json.loads(body)
        choice = content["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise LostReplyError(f"the response is not a chat completion: {body.strip()[:80]!r}") from None
    text = _clean(text) if isinstance(text, str) else ""
    usage = content.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return Reply(
        text=text,
        refusal=_clean(str(refusal)) if refusal else None,
        finish=choice.get("finish_reason"),
        model=str(content.get("model") or request.body["model"]),
        tokens_in=_count(counts.get("prompt_tokens"), request.prompt),
        tokens_out=_count(counts.get("completion_tokens"), text),
    )


def _clean(text: str) -> str:
    """Replace half characters, which JSON can escape and no file can hold."""
    return text.encode(errors="replace").decode()


def _count(told: Any, text: str) -> int:
    return told if isinstance(told, int) else estimate_tokens(text)


def refuse_refusal(reply: Reply) -> None:
    """Raises: UnusableReplyError for a refusal; a second call would only be paid twice."""
    if reply.refusal is not None:
        raise UnusableReplyError(f"refusal: {reply.refusal[:200]}", again=False)
    if reply.finish == "content_filter":
        raise UnusableReplyError("refusal: the server's content filter", again=False)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The pause that a server asks for, in seconds: `retry-after-ms`, or `retry-after` as seconds or a date."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / divisor
        except ValueError:
            continue
        if seconds >= 0:  # false for NaN too
            return seconds
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    moment = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
