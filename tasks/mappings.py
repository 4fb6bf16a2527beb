"""JSON files of this project that hold a mapping: notes between processes, and metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_mapping(path: Path) -> dict[str, Any]:
    """A file's mapping; empty where there is no file, or no whole mapping in it: it was cut off, or is another's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_progress(path: Path) -> dict[str, Any]:
    """A stage's progress: `step` and `steps`, and other numbers; empty where the file does not say the two."""
    content = read_mapping(path)
    known = all(isinstance(content.get(name), int) for name in ("step", "steps"))
    named = {"stage": str(content["stage"])} if content.get("stage") else {}
    numbers = {name: value for name, value in content.items() if value is None or isinstance(value, int | float)}
    return {**named, **numbers} if known else {}
