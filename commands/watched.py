"""The settings that dvc.yaml watches: DVC refuses to run a stage when one of them is absent, default or not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.project.settings import read_yaml
from distill.project.table import PARAMS

_STUDENT = "${key}"
_METHOD = "${method}"


def unwritten_settings(profile: Path, students: Iterable[str]) -> list[str]:
    """One fault for each place of a profile that DVC watches for these students and that is not written out.

    The sections of methods are left to `commands.check`, which knows which methods are wanted.
    """
    entries = [entry for entry in _watched() if isinstance(entry, dict)]
    watched = sorted({key for e in entries for file in e if file.startswith("profiles/") for key in e[file]})
    watched = [key for key in watched if _METHOD not in key]
    wanted = [key for key in watched if _STUDENT not in key]
    wanted += [key.replace(_STUDENT, student) for student in students for key in watched if _STUDENT in key]
    return _absent(profile, wanted)


def unwritten_params() -> list[str]:
    """The same for params.yaml; rows of its table are there by being named."""
    return _absent(PARAMS, sorted({entry for entry in _watched() if isinstance(entry, str) and "$" not in entry}))


def _watched() -> list[Any]:
    """The `params:` of every block: places in params.yaml, or a mapping of a file to places in it."""
    blocks = read_yaml(Path("dvc.yaml"))["stages"].values()
    return [entry for block in blocks for entry in block.get("do", block).get("params", [])]


def _absent(path: Path, places: Iterable[str]) -> list[str]:
    content = read_yaml(path)
    return [
        f"{path}: {place} is missing, and DVC watches it; write it out, with null where it has no value"
        for place in places
        if not _stands_in(content, place)
    ]


def _stands_in(content: Any, dotted: str) -> bool:
    for step in dotted.split("."):
        if not isinstance(content, dict) or step not in content:
            return False
        content = content[step]
    return True
