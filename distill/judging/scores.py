"""Read two scores from a judge's reply, in the asked form or nearly so.

Read in this order: JSON anywhere in the reply; JSON that was cut off; a line of two numbers, as in the paper; two
labelled numbers ("Answer 1: 8"). A reply without exactly two numbers between 1 and 10 is refused, never guessed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Any

from distill.judging.chat import CUT, Reply, lack_of, refuse_refusal, useless
from distill.judging.thinking import split_thinking

LOWEST, HIGHEST = 1, 10
_LONGEST_REASON = 500
_BRACKETS_TRIED = 50

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
# Something must end the number: where the reply was cut, a 1 may be the start of a 10.
_CUT_JSON = re.compile(rf'"(first|second)"\s*:\s*"?({_NUMBER})(?=[\s,"}}/])')
_BARE_LINE = re.compile(rf"{_NUMBER}(?:\s*/\s*10)?(?:[\s,;|]+{_NUMBER}(?:\s*/\s*10)?)*")
# The lookahead refuses `2nd` as a number, and half of a number as well, which backtracking would take.
_LABELLED = re.compile(
    rf"\b(?:first|second|answer|assistant|response|score)\b[^\n:=]{{0,30}}[:=]\s*({_NUMBER})(?![\d.]*\w)", re.IGNORECASE
)
_LAST_NUMBER = re.compile(r"[\d.]+$")
_LABEL = re.compile(r"^(?:the )?(?:scores?|ratings?)\s*[:=]\s*", re.IGNORECASE)
_DECORATION = str.maketrans("", "", "*_`[]()")
_ABSURD = 1e9  # JSON has whole numbers that no float can hold


@dataclass(frozen=True)
class Scores:
    """A judge's scores of the two answers, in the order shown."""

    first: float
    second: float
    reason: str = ""
    """The judge's own words, if the reply has the asked form."""


def read_scores(reply: Reply) -> Scores:
    """The scores in a reply. Raises: UnusableReplyError, which describes the reply."""
    refuse_refusal(reply)
    text = _answer_in(reply)
    if reply.finish == CUT:
        text = _LAST_NUMBER.sub("", text)  # the 1 at a cut end may be the start of a 10
    content = _json_in(text)
    found = _numbers_in(content) if content is not None else _numbers_in_text(text)
    if not found:
        raise useless(reply, f"no scores in it{f': {text[:80]!r}' if text else f', {lack_of(reply)}'}")
    # Of three numbers two may be the scores, but which ones would be a guess.
    if len(found) != 2:
        raise useless(reply, f"{len(found)} score{'s' * (len(found) > 1)} and not 2")
    for score in found:
        if not LOWEST <= score <= HIGHEST:  # true for NaN too
            raise useless(reply, f"score {score:g} is not within {LOWEST} to {HIGHEST}")
    reason = content.get("reason") if isinstance(content, dict) else None
    return Scores(found[0], found[1], reason[:_LONGEST_REASON] if isinstance(reason, str) else "")


def _answer_in(reply: Reply) -> str:
    """The text without thinking: numbers that a model thinks of are no scores.

    The arguments of a tool, or thinking that is nothing but the asked JSON, stand for a text that is missing: some
    servers put it there.
    """
    text = reply.text.strip()
    if _whole_json(text) is not None:  # a reason may speak of `</think>`
        return text
    thought = split_thinking(text)
    if not thought.closed:
        raise useless(reply, "its thinking has no end")
    answer = thought.answer.strip() or reply.tool.strip()
    if answer or not {"first", "second"} <= (_whole_json(reply.reasoning) or {}).keys():
        return answer
    return reply.reasoning.strip()


def _whole_json(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _json_in(text: str) -> Any:
    """The first JSON object or list in a text, or None."""
    decoder = json.JSONDecoder()
    # Only some brackets: decoding from each one of a long text could cost the square of its length.
    for start in islice(re.finditer(r"[\[{]", text), _BRACKETS_TRIED):
        try:
            return decoder.raw_decode(text, start.start())[0]
        except (ValueError, RecursionError):
            continue
    return None


def _numbers_in(content: Any) -> list[float]:
    """The scores that JSON holds: those named as asked, else every number that is not inside a text."""
    if isinstance(content, dict) and {"first", "second"} <= content.keys():
        return [number for name in ("first", "second") for number in _numbers_in(content[name])]
    if isinstance(content, dict | list):
        values = content.values() if isinstance(content, dict) else content
        return [number for value in values if not _is_prose(value) for number in _numbers_in(value)]
    # bool is a kind of int in Python: true would count as a score of 1.
    if isinstance(content, bool) or content is None:
        return []
    if isinstance(content, str):
        line = content.strip().translate(_DECORATION)
        return _numbers_of_line(line) if _BARE_LINE.fullmatch(line) else []
    return [float(content) if abs(content) < _ABSURD else inf]


def _is_prose(value: Any) -> bool:
    return isinstance(value, str) and not _BARE_LINE.fullmatch(value.strip())


def _numbers_in_text(text: str) -> list[float]:
    if '"first"' in text and '"second"' in text:
        named = dict(_CUT_JSON.findall(text))
        return [float(named["first"]), float(named["second"])] if len(named) == 2 else []
    for line in text.splitlines():
        bare = _LABEL.sub("", line.translate(_DECORATION).strip())
        if _BARE_LINE.fullmatch(bare):
            return _numbers_of_line(bare)
    return [float(number) for number in _LABELLED.findall(text.translate(_DECORATION))]


def _numbers_of_line(line: str) -> list[float]:
    # The 10 of `8/10` is the scale, not a score.
    return [float(number) for number in re.findall(_NUMBER, re.sub(r"\s*/\s*10\b", "", line))]
