"""Findings of a check before the work: sound, doubtful, or certain to fail, each with the fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "stop"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Level
    subject: str
    """The subject of the check, in a word or two."""
    text: str
    """The result in a sentence; anything but `ok` ends with the fix."""

    def __str__(self) -> str:
        return f"{self.level:>4}  {self.subject}: {self.text}"


def gibibytes(count: float) -> str:
    """`12.3 GiB`, or MiB for less than one."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
