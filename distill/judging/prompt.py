"""The judge's prompt: a text file with places for the question and the two answers."""

from __future__ import annotations

import re
from pathlib import Path

from distill.project.errors import SettingsError

_PLACES = ("question", "first", "second")
_PLACE = re.compile(r"\{(question|first|second)\}")

# Scores before the reason, as the paper asks for them; `enum` and not a range, which fewer servers know.
SCORES_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "scores",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "first": {"type": "integer", "enum": list(range(1, 11))},
                "second": {"type": "integer", "enum": list(range(1, 11))},
                "reason": {"type": "string"},
            },
            "required": ["first", "second", "reason"],
            "additionalProperties": False,
        },
    },
}


def read_template(path: Path) -> str:
    """The template in a file. Raises: SettingsError when it is missing or lacks a place."""
    try:
        template = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"the judge's prompt {path} does not exist; correct judge.protocol.prompt") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the judge's prompt {path} is not UTF-8; save it as UTF-8") from None
    found = _PLACE.findall(template)
    if faults := [f"{{{place}}}" for place in _PLACES if place not in found]:
        raise SettingsError(f"the judge's prompt {path} lacks {', '.join(faults)}; write where that goes")
    return template.strip()


def fill(template: str, question: str, first: str, second: str) -> str:
    """The prompt for one pair of answers."""
    texts = {"question": question, "first": first, "second": second}
    # One pass, so that an answer that contains "{second}" is not expanded itself.
    return _PLACE.sub(lambda place: texts[place[1]], template)
