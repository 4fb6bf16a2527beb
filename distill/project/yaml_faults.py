"""The fix for a YAML file that cannot be read: quotes around a value, where they mend it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

# A value in brackets ends at a comma or a bracket; one on a line of its own ends with the line, or at a comment.
_IN_BRACKETS = re.compile(r"(?:[:,\[]\s+|\[)(?P<value>[^\s\"'\[{,*&](?:(?!:\s)[^,\]}])*?)(?=\s*(?:[,\]}]|$))")
_ON_A_LINE = re.compile(r"(?:^\s*-|^\s*[\w.-]+\s*:)\s+(?P<value>[^\s\"'*&].*?)(?=\s*(?:\s#.*)?$)")


def explain(text: str, error: MarkedYAMLError) -> tuple[int, str]:
    """The line of a fault, counted from 1, and a description that ends with the fix."""
    at = _place(error)
    lines = text.splitlines()
    begun = error.context_mark.line if error.context_mark is not None else at[0]
    for number in dict.fromkeys([at[0], at[0] - 1, begun]):
        if not 0 <= number < len(lines):
            continue
        for value, mended in _quoted(lines[number]):
            left = _fault("\n".join([*lines[:number], mended, *lines[number + 1 :]]))
            grown = len(mended) - len(lines[number]) if number == at[0] else 0
            if left is None or left > (at[0], at[1] + grown):
                return number + 1, f"{error.problem} in `{value}`; put the value in quotes"
    return at[0] + 1, f"{error.problem}; correct that line"


def _quoted(line: str) -> Iterator[tuple[str, str]]:
    """Each unquoted value of a line, and the line with that one in quotes."""
    for pattern in (_IN_BRACKETS, _ON_A_LINE):
        for found in pattern.finditer(line):
            start, end = found.span("value")
            if any(found["value"].count(a) != found["value"].count(b) for a, b in ("[]", "{}")):
                continue  # a bracket without its other half goes on in the next line
            yield found["value"], line[:start] + json.dumps(found["value"], ensure_ascii=False) + line[end:]


def _fault(text: str) -> tuple[int, int] | None:
    """The place of the first fault; None for a text that can be read."""
    try:
        YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        return _place(error)
    except YAMLError:
        return 0, 0
    return None


def _place(error: MarkedYAMLError) -> tuple[int, int]:
    """Line and column, counted from 0."""
    mark = error.problem_mark or error.context_mark
    return (0, 0) if mark is None else (mark.line, mark.column)
