"""The thinking that a model writes before its answer, apart from the answer.

Marks are a bracket and a word for thinking: `<think>`, `[THINK]`, `<|begin_of_thought|>`. A server whose template
opens the thinking itself sends the closing mark alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MARK = re.compile(
    r"(?<![`'\"])[<\[◁](?P<close>/)?\|?"
    r"(?:\w+:)?(?P<side>begin_of_|start_of_|end_of_)?(?:think|thinking|thoughts?|reason|reasoning|reflection)"
    r"\|?[>\]▷](?![`'\"])",
    re.IGNORECASE,
)
# The channels of gpt-oss, where a server does not take them apart.
_CHANNEL = re.compile(r"\s*<\|channel\|>\s*(?:analysis|commentary)\b")
_FINAL = re.compile(r".*<\|channel\|>\s*final\b[^|]*<\|message\|>", re.DOTALL)


@dataclass(frozen=True)
class Thought:
    """A text in two parts."""

    thinking: str
    answer: str
    closed: bool = True
    """False when the text ended within its thinking."""
    opened: bool = True
    """False when the closing mark stands alone."""


def split_thinking(text: str) -> Thought:
    """Take a text apart. A mark that does not open the text, and closes nothing, is part of the answer."""
    if _CHANNEL.match(text):
        final = _FINAL.match(text)
        return Thought(text, "", False) if final is None else Thought(text[: final.end()], text[final.end() :])
    marks = list(_MARK.finditer(text))
    if not marks:
        return Thought("", text)
    first, closing = marks[0], [mark for mark in marks if _closes(mark)]
    opens = not _closes(first)
    if opens and text[: first.start()].strip():
        return Thought("", text)
    if not closing:
        # Square brackets may be a heading.
        return Thought("", text) if first[0].startswith("[") else Thought(text, "", False)
    end = ((_balanced(text, marks) if opens else None) or closing[-1]).end()
    return Thought(text[:end], text[end:], opened=opens)


def _closes(mark: re.Match[str]) -> bool:
    return mark["close"] is not None or (mark["side"] or "").lower() == "end_of_"


def _balanced(text: str, marks: list[re.Match[str]]) -> re.Match[str] | None:
    """The mark that closes what the first one opens, and further thinking right behind it."""
    depth, last = 0, None
    for mark in marks:
        if last is not None and depth == 0 and (_closes(mark) or text[last.end() : mark.start()].strip()):
            return last
        depth += -1 if _closes(mark) else 1
        if depth == 0:
            last = mark
    return last if depth == 0 else None
