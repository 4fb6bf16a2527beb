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

CUT, FILTERED = "length", "content_filter"
"""`finish` of a reply that ended at the limit, or was held back."""


class NotTakenError(Exception):
    """The server did not take the request (429, 5xx, no connection): nothing was billed; try again later."""

    def __init__(self, reason: str, retry_after: float | None = None, busy: bool = False, said: str = "") -> None:
        """`retry_after`: seconds to wait, by the server's wish; `busy`: it has too many requests (429); `said`: why."""
        super().__init__(reason)
        self.retry_after, self.busy, self.said = retry_after, busy, said


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
    """`stop`, CUT, FILTERED, or another word of the server's; None without one."""
    model: str
    """As the server names it."""
    tokens_in: int
    tokens_out: int
    reasoning: str = ""
    """The thinking, where the server keeps it apart."""
    tool: str = ""
    """The arguments of a tool that the model called instead of answering, as JSON."""


def question_of(instruction: str, input: str) -> str:
    """An instruction and the text it is about, as a person would send them."""
    return f"{instruction}\n\n{input}" if input.strip() else instruction


def estimate_tokens(text: str) -> int:
    """An upper guess at the tokens of a text: 3 bytes a token, and a few for the frame."""
    return len(text.encode(errors="replace")) // 3 + 8


def refuse_refusal(reply: Reply) -> None:
    """Raises: UnusableReplyError for a refusal; a second call would only be paid twice."""
    if reply.refusal is not None:
        raise UnusableReplyError(f"refusal: {reply.refusal[:200]}", again=False)
    if reply.finish == FILTERED:
        raise UnusableReplyError("refusal: the server's content filter", again=False)


def useless(reply: Reply, fault: str) -> UnusableReplyError:
    """The error for a useless reply. Of a cut one, another would be cut as well, so it is not bought again."""
    if reply.finish == CUT:
        return UnusableReplyError(f"reply: cut at max_tokens, {fault}; raise max_tokens", again=False)
    return UnusableReplyError(f"reply: {fault}", again=True)


def lack_of(reply: Reply) -> str:
    """The description of a reply without a text, by what it holds instead."""
    if reply.reasoning:
        return "it holds thinking and no answer"
    if reply.tool:
        return "it calls a tool and says nothing"
    return "it is empty" if reply.finish in (None, "stop", CUT) else f"it is empty (it ended with {reply.finish!r})"


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
