"""The settings that dvc.yaml watches: DVC refuses to run a stage when one of them is absent, default or not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.project.settings import read_yaml

_STUDENT = "${key}"


def unwritten_settings(profile: Path, students: Iterable[str]) -> list[str]:
    """One fault for each place of a profile that DVC watches for these students and that is not written out."""
    content = read_yaml(profile)
    watched = _watched_keys()
    wanted = [key for key in watched if _STUDENT not in key]
    wanted += [key.replace(_STUDENT, student) for student in students for key in watched if _STUDENT in key]
    return [
        f"{profile}: {key} is missing, and DVC watches it; write it out, with null where it has no value"
        for key in wanted
        if not _stands_in(content, key)
    ]


def _watched_keys() -> list[str]:
    """Dotted places below a profile's top, with `${key}` where the student's name goes."""
    entries = [
        entry
        for block in read_yaml(Path("dvc.yaml"))["stages"].values()
        for entry in block.get("do", block).get("params", [])
        if isinstance(entry, dict)
    ]
    return sorted({key for entry in entries for file in entry if file.startswith("profiles/") for key in entry[file]})


def _stands_in(content: Any, dotted: str) -> bool:
    for step in dotted.split("."):
        if not isinstance(content, dict) or step not in content:
            return False
        content = content[step]
    return True
