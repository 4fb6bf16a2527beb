"""The cost ledger: what each phase of a run spent, and passes a rollout token against what the algorithm needs.

    collect     rollouts: decode of both models, or of the student alone with one teacher pass after it
    update      inner epochs: forward and backward passes, optimiser
    plain_text  the term L_PT
    check       the decode's log-probabilities against a plain pass, for the first rollouts of a run
    validate    responses to the validation prompts, and their Rouge-L

One pass is one forward over a rollout token by one model; a backward counts as two. Prompts add positions and no
passes. `fill` is the share of real positions among those computed, the rest being padding; `rows` the share of a
decode batch's rows that are still being written, its mean over steps.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distill.on_policy.process_memory import PeakMemory

PASSES = ("student_decode", "teacher_decode", "student_forward", "student_backward", "teacher_forward")
_COLUMNS = ("phase", "seconds", "CPU s", "tokens", "tokens/s", "fill", "rows", "peak MiB")


class CostLedger:
    """Seconds, peak memory, tokens and passes by phase."""

    def __init__(self, stored: dict[str, dict[str, float]] | None = None) -> None:
        """Continue a `stored` ledger, or begin a new one."""
        self.phases: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for phase, entries in (stored or {}).items():
            self.phases[phase].update(entries)
        self.memory = PeakMemory()

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to a phase, and note its highest memory; phases do not nest."""
        self.memory.restart()
        # CPU time is of all threads: above the clock where they run together, below it where one waits.
        began, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        # Failed work counts too: a batch that did not fit has cost its time.
        finally:
            entries = self.phases[phase]
            entries["seconds"] += time.perf_counter() - began
            entries["cpu_seconds"] += time.process_time() - cpu
            for name, mark in self.memory.peaks().items():
                # Seconds add up over calls; a high-water mark does not.
                entries[name] = max(entries[name], mark)

    def count(self, phase: str, **amounts: float) -> None:
        """Add to a phase's counters.

        `tokens`: response tokens handled. `positions` and `padded`: real ones and all that were computed. `slots`:
        rows of decode batches times their steps. And any of `PASSES`.
        """
        for name, amount in amounts.items():
            self.phases[phase][name] += amount

    def state(self) -> dict[str, dict[str, float]]:
        """What `CostLedger(stored)` takes back."""
        return {phase: dict(entries) for phase, entries in self.phases.items()}

    def summary(self) -> dict[str, Any]:
        """By phase: seconds, tokens a second, fill, peak memory; and passes a rollout token over the whole run."""
        report: dict[str, Any] = {phase: _phase(entries) for phase, entries in self.phases.items()}
        # By `get`: a look-up would make the phase, and the next summary would show it, empty.
        collected = self.phases.get("collect", {})
        # Tokens that were sampled, and those of the data that both models have read.
        rollout_tokens = collected.get("tokens", 0) + collected.get("student_forward", 0)
        if rollout_tokens:
            # What the algorithm needs for a rollout token; the check and validation are no part of it.
            cycle = [self.phases[name] for name in ("collect", "update") if name in self.phases]
            report["passes_per_rollout_token"] = {
                name: round(sum(entries.get(name, 0) for entries in cycle) / rollout_tokens, 3) for name in PASSES
            }
        return report

    def lines(self) -> list[str]:
        """The summary as a table for a terminal."""
        report = self.summary()
        passes = report.pop("passes_per_rollout_token", None)
        rows = [_COLUMNS]
        for phase, found in report.items():
            per_second, memory = found["tokens_per_second"], found["peak_rss_mib"]
            rows.append(
                (
                    phase,
                    f"{found['seconds']:.1f}",
                    f"{found['cpu_seconds']:.1f}",
                    f"{found['tokens']}" if found["tokens"] else "",
                    "" if per_second is None else f"{per_second:.0f}",
                    "" if found["fill"] is None else f"{found['fill']:.0%}",
                    "" if found["rows"] is None else f"{found['rows']:.0%}",
                    "" if memory is None else f"{memory:.0f}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        shown = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        if passes is not None:
            listed = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in passes.items() if value)
            shown.append(f"passes a rollout token: {listed}")
        return shown


def _phase(entries: dict[str, float]) -> dict[str, Any]:
    seconds, tokens = entries.get("seconds", 0.0), int(entries.get("tokens", 0))
    found = {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(entries.get("cpu_seconds", 0.0), 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if tokens and seconds else None,
        "fill": _share(entries.get("positions"), entries.get("padded")),
        "rows": _share(tokens, entries.get("slots")),
        "peak_rss_mib": _rounded(entries.get("peak_rss_mib")),
    }
    if "peak_cuda_mib" in entries:
        found["peak_cuda_mib"] = _rounded(entries["peak_cuda_mib"])
    return found


def _share(part: float | None, whole: float | None) -> float | None:
    # Absent counters and an empty whole give no share; 0 of something is one.
    return round(part / whole, 4) if part is not None and whole else None


def _rounded(mark: float | None) -> float | None:
    return None if mark is None else round(mark, 1)
