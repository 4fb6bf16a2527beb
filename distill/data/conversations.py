"""Conversations: turns read by their roles, the first question and the answer to it as one row.

A prompt is one turn of a user, so every other turn is left unused and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distill.data.jsonl import parse_json
from distill.data.tables import MalformedRowError, RecordTable

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
_ROLES = {
    SYSTEM: ("system", "developer"),
    USER: ("user", "human", "prompter"),
    ASSISTANT: ("assistant", "gpt", "model", "bot", "ai", "chatbot", "chatgpt"),
    TOOL: ("tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython"),
}
KINDS = frozenset(_ROLES)
_ROLE_KEYS = ("role", "from", "speaker", "sender")
_TEXT_KEYS = ("content", "value", "text")
_CALL_KEYS = ("tool_calls", "function_call")
_SHORT_WORD = re.compile(r"[\w-]{1,20}")
_LOOKED_AT = 20


class UnusableError(ValueError):
    """A conversation without a row in it; the message is the reason under which it is counted."""


class Exchange(NamedTuple):
    """The first question of a conversation with its answer, and the turns that are not used."""

    question: str
    answer: str
    unused: Counter[str]
    """By kind: `system_turns`, `turns_before_the_question`, `later_turns`."""


@dataclass(frozen=True)
class Roles:
    """Further names of the two roles that a row is made of."""

    user: str | None = None
    assistant: str | None = None

    def kind(self, role: str) -> str:
        """One of the four kinds, or the role as it is written."""
        if role == self.user:
            return USER
        if role == self.assistant:
            return ASSISTANT
        plain = role.strip().lower()
        return next((kind for kind, names in _ROLES.items() if plain in names), role)


def first_exchange(value: Any, roles: Roles) -> Exchange:
    """The first turn of a user and the assistant's turn behind it.

    Raises: MalformedRowError for what is no list of turns; UnusableError when there is no such pair, when two
    questions follow each other, or when a tool, an unknown role or content other than text stands between.
    """
    turns = read_turns(value)
    unused: Counter[str] = Counter()
    question: str | None = None
    for place, turn in enumerate(turns, start=1):
        kind = roles.kind(role_of(turn, place))
        if kind == TOOL or any(turn.get(key) for key in _CALL_KEYS):
            raise UnusableError("tool_call")
        if kind == SYSTEM:
            unused["system_turns"] += 1
        elif kind == USER:
            if question is not None:
                raise UnusableError("two_questions_in_a_row")
            question = _text(turn)
        elif kind != ASSISTANT:
            raise UnusableError(f"unknown_role_{kind}" if _SHORT_WORD.fullmatch(kind) else "unknown_role")
        elif question is None:
            unused["turns_before_the_question"] += 1
        else:
            unused["later_turns"] += len(turns) - place
            return Exchange(question, _text(turn), unused)
    raise UnusableError("no_question" if question is None else "no_answer")


def read_turns(value: Any) -> list[dict[str, Any]]:
    """The turns of a conversation, which may be written as JSON text. Raises: MalformedRowError."""
    turns = _parsed(value)
    if isinstance(turns, dict) and turns and all(isinstance(column, list) for column in turns.values()):
        # A sequence of objects as some tables keep it: a list for each key.
        turns = [dict(zip(turns, cells, strict=False)) for cells in zip(*turns.values(), strict=False)]
    if not isinstance(turns, list):
        raise MalformedRowError(f"a conversation of type {type(turns).__name__}, not a list of turns")
    found = [_parsed(turn) for turn in turns]
    for place, turn in enumerate(found, start=1):
        if not isinstance(turn, dict):
            raise MalformedRowError(f"turn {place} is of type {type(turn).__name__}, not an object with a role")
    return found


def role_of(turn: Any, place: int) -> str:
    """The role that a turn names. Raises: MalformedRowError when it names none."""
    role = next((turn[key] for key in _ROLE_KEYS if isinstance(turn.get(key), str)), None)
    if role is None:
        raise MalformedRowError(f"turn {place} names no role (`role` or `from`)")
    return str(role)


def find_conversations(table: RecordTable) -> list[str]:
    """The columns that hold lists of turns with roles, by the look of the first records."""
    looked_at = [record.content for record in table.records[:_LOOKED_AT]]
    return [name for name in table.columns if _are_conversations(content.get(name) for content in looked_at)]


def _are_conversations(values: Iterable[Any]) -> bool:
    there = [value for value in values if value]
    try:
        for value in there:
            for place, turn in enumerate(read_turns(value), start=1):
                role_of(turn, place)
    except MalformedRowError:
        return False
    return bool(there)


def _parsed(value: Any) -> Any:
    """A value, or what its text holds where that is a list or an object of JSON."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return value


def _text(turn: dict[str, Any]) -> str:
    """A turn's text, its parts joined. Raises: UnusableError for anything but text."""
    content = next((turn[key] for key in _TEXT_KEYS if turn.get(key) is not None), "")
    parts: Sequence[Any] = content if isinstance(content, list) else [content]
    found = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(found):
        raise UnusableError("content_other_than_text")
    return "".join(texts)
