"""Reading a chat completion: what the server says of a reply is used, and its counts are believed where they can be.

Servers differ in where they put text (a string, parts, a call of a tool), thinking and the reason of an end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from distill.judging.chat import CUT, FILTERED, ChatRequest, LostReplyError, Reply, estimate_tokens

_SHOWN = 80
_QUOTED = 20_000
"""Letters of a body that are looked at for a message."""
_CUT = re.compile(r"length|max|limit", re.IGNORECASE)
_FILTERED = re.compile(r"filter|safety|blocked|prohibited", re.IGNORECASE)
_THINKING = re.compile(r"reason|think|thought", re.IGNORECASE)
_BYTES_A_TOKEN = 256
_UNSEEN = 2**15  # tokens of a server's own prompt, or of thinking that is billed and not shown
_DEEPEST = 20


def read_completion(body: str, request: ChatRequest, redact: Callable[[str], str] = str) -> Reply:
    """The reply in a server's response body, each of its texts after `redact`.

    Raises: LostReplyError when it is not a chat completion.
    """
    try:
        content = json.loads(body)
        choice = content["choices"][0]
        message = choice.get("message")
        message = {"content": choice["text"]} if message is None else message
        text, refusal = _text_of(message.get("content")), message.get("refusal")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        shown = redact(body[:_QUOTED].strip())[:_SHOWN]
        raise LostReplyError(f"the response is not a chat completion: {shown!r}") from None
    if choice.get("error"):
        raise LostReplyError(f"the server broke off: {redact(error_words(choice))[:_SHOWN]}")
    parts = message.get("content")
    refused = refusal or (_text_of(parts, "refusal") if isinstance(parts, list) else "")
    told = [_all_text(value) for name, value in message.items() if _THINKING.search(name)]
    thoughts = next((each for each in told if each), "") or _text_of(parts, "thinking")
    tool = _call_in(message)
    usage = content.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    finish = _finish(choice.get("finish_reason"), counts.get("completion_tokens"), request.longest_reply)
    return Reply(
        text=redact(_clean(text)),
        refusal=redact(_clean(str(refused))) if refused else None,
        finish=redact(_clean(finish)) if finish is not None else None,
        model=redact(_clean(str(content.get("model") or request.body["model"]))),
        tokens_in=_count(counts.get("prompt_tokens"), request.prompt, 4 * len(request.prompt) + _UNSEEN),
        tokens_out=_count(counts.get("completion_tokens"), text + thoughts + tool, 4 * request.longest_reply + _UNSEEN),
        reasoning=redact(_clean(thoughts)),
        tool=redact(_clean(tool)),
    )


def error_in(body: str) -> tuple[int | None, str] | None:
    """The status and the words of an error that a server sent as a success; None when it is something else."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("choices"):
        return None
    error = content.get("error")
    if not error:
        return None
    numbers = [error.get(name) for name in ("code", "status", "http_code")] if isinstance(error, dict) else []
    status = next((int(n) for n in map(str, numbers) if n.isdecimal() and 400 <= int(n) < 600), None)
    return status, error_words(content)


def error_words(content: Any) -> str:
    """The words of an error, from its JSON or from the text that it is."""
    if isinstance(content, str):
        try:
            content = json.loads(content)
        except (ValueError, RecursionError):
            return str(content)[:_QUOTED]
    inner = content.get("error") or content if isinstance(content, dict) else content
    if isinstance(inner, dict):
        words = [str(inner[name]) for name in ("message", "detail", "code", "type") if inner.get(name)]
        return _clean("; ".join(words[:2]) or json.dumps(inner))[:_QUOTED]
    return _clean(str(inner))[:_QUOTED]


def _text_of(content: Any, kind: str = "text") -> str:
    """The text in a message's content: a string, or parts, of which only those of one kind count."""
    if content is None or isinstance(content, str):
        return content or "" if kind == "text" else ""
    parts = content if isinstance(content, list) else [content]
    return "".join(_all_text(part) for part in parts if _kind_of(part) == kind)


def _kind_of(part: Any) -> str:
    name = str(part.get("type", "text")) if isinstance(part, dict) else "text"
    if _THINKING.search(name):
        return "thinking"
    return "refusal" if "refus" in name else "text"


def _all_text(value: Any, depth: int = 0) -> str:
    """Every string in a part that is a text: its own, and those of the parts in it."""
    if isinstance(value, str):
        return value
    if depth > _DEEPEST:
        return ""
    if isinstance(value, list):
        return "".join(_all_text(each, depth + 1) for each in value)
    if not isinstance(value, dict):
        return ""
    named = [each for name, each in value.items() if name in ("text", "value", "content", "refusal", "summary")]
    return "".join(_all_text(each, depth + 1) for each in named or _thoughts(value))


def _thoughts(part: dict[str, Any]) -> list[Any]:
    return [each for name, each in part.items() if name != "type" and _THINKING.search(name)]


def _call_in(message: Mapping[str, Any]) -> str:
    """The arguments of the first tool that a message calls, as JSON; empty without a call."""
    calls = message.get("tool_calls")
    first = calls[0] if isinstance(calls, list) and calls else None
    call = first.get("function", first) if isinstance(first, dict) else message.get("function_call")
    arguments = call.get("arguments") if isinstance(call, dict) else None
    return arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)


def _finish(told: Any, tokens: Any, longest: int) -> str | None:
    """A server's word for the end of a reply, in OpenAI's words where it means the same."""
    if told is None:
        return CUT if isinstance(tokens, int) and tokens >= longest else None
    word = str(told)
    if _CUT.search(word):
        return CUT
    return FILTERED if _FILTERED.search(word) else word


def _clean(text: str) -> str:
    """Replace half characters, which JSON can escape and no file can hold."""
    return text.encode(errors="replace").decode()


def _count(told: Any, text: str, most: int) -> int:
    """A server's count of a text's tokens; an estimate where it tells none, or none that can be."""
    if isinstance(told, float) and told.is_integer():
        told = int(told)
    if not isinstance(told, int) or isinstance(told, bool):
        return estimate_tokens(text)
    possible = 0 <= told <= most and told * _BYTES_A_TOKEN >= len(text.encode(errors="replace"))
    return told if possible else estimate_tokens(text)
