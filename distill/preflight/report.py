"""The stages of a row as a table for a terminal: steps, tokens, memory, time."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from distill.preflight.findings import gibibytes
from distill.preflight.memory_estimate import Estimate
from distill.preflight.speeds import Speed
from distill.preflight.workload import Work

_WIDTH_IN_A_LOG = 120


def print_plans(
    student: str,
    plans: Sequence[tuple[str, str, Work | None, Estimate | None]],
    known: bool,
    speeds: Mapping[str, Speed],
) -> None:
    """One line for each stage: its name, work, memory and time at the speed of its model in `speeds`.

    `known` says whether lengths come from prepared data.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(f"{student}: estimates"))
    for name in ("stage", "steps", "tokens trained", "tokens sampled", "peak memory", "time"):
        drawn.add_column(name, justify="left" if name == "stage" else "right")
    for name, model, work, memory in plans:
        numbers = ["?", "?", "?"] if work is None else [f"{work.steps:,}", _short(work.trained), _short(work.generated)]
        peak = "–" if memory is None else gibibytes(memory.peak)
        if memory is not None and memory.host:
            peak += f" + {gibibytes(memory.host_peak)} CPU"
        drawn.add_row(name, *numbers, peak, "?" if work is None else duration(speeds[model].seconds(work)))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_A_LOG, highlight=False)
    console.print(drawn)
    lengths = "mean lengths of the prepared data" if known else "the longest prompts and responses allowed"
    told = "; ".join(
        f"{model} {speed.training / 1e9:,.1f} GFLOP/s training, {speed.sampling / 1e9:,.1f} GFLOP/s sampling"
        for model, speed in speeds.items()
    )
    console.print(
        f"Counted with {lengths}. Speed, measured here just now on small models of these widths: {told}.",
        soft_wrap=True,
        markup=False,
    )


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
