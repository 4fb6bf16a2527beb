"""The stages of a row as a table for a terminal: steps, tokens, memory, time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from distill.preflight.findings import gibibytes
from distill.preflight.memory_estimate import Estimate
from distill.preflight.workload import Work

_WIDTH_IN_A_LOG = 120


@dataclass(frozen=True)
class Line:
    """One stage, or several of a kind together."""

    name: str
    work: Work | None
    memory: Estimate | None
    seconds: float | None
    stages: int = 1

    def __add__(self, other: Line) -> Line:
        """Both as one line: work and time of both, the larger memory."""
        work = None if self.work is None or other.work is None else self.work + other.work
        seconds = None if self.seconds is None or other.seconds is None else self.seconds + other.seconds
        memory = max((self.memory, other.memory), key=lambda held: held.peak if held else 0.0)
        return Line(self.name, work, memory, seconds, self.stages + other.stages)


def print_plans(student: str, lines: Sequence[Line], known: bool) -> None:
    """One line for each training stage and each kind of the others: its work, memory and time.

    `known` says whether lengths come from the data.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(f"{student}: estimates"))
    for name in ("stage", "steps", "tokens trained", "tokens sampled", "peak memory", "time"):
        drawn.add_column(name, justify="left" if name == "stage" else "right")
    for line in lines:
        work, memory = line.work, line.memory
        numbers = ["?", "?", "?"] if work is None else [f"{work.steps:,}", _short(work.trained), _short(work.generated)]
        peak = "–" if memory is None else gibibytes(memory.peak)
        if memory is not None and memory.host:
            peak += f" + {gibibytes(memory.host_peak)} CPU"
        name = line.name if line.stages == 1 else f"{line.name}, {line.stages} stages"
        drawn.add_row(name, *numbers, peak, "?" if line.seconds is None else duration(line.seconds))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_A_LOG, highlight=False)
    console.print(drawn)
    lengths = "mean lengths of the data" if known else "a guess at the data's lengths, as far as files tell them"
    told = "Time is that of the work itself, on free cores, at speeds measured here just now."
    console.print(f"Counted with {lengths}. {told}", soft_wrap=True, markup=False)


def _short(count: float) -> str:
    """`1.2 M`, `340 k`."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:,.1f}{unit}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `5.5 h`, `12 days`."""
    for size, unit in ((2 * 86_400, "days"), (2 * 3_600, "h"), (100, "min")):
        if seconds >= size:
            amount = seconds / {"days": 86_400, "h": 3_600, "min": 60}[unit]
            return f"{amount:.1f} {unit}" if unit != "min" else f"{amount:.0f} min"
    return f"{seconds:.0f} s"
