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
