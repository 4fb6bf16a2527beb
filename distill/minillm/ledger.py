"""The cost ledger: what each phase of a run spent, and passes a rollout token against what the algorithm needs.

Token counts are of real (unpadded) tokens; `fill` is their share of the padded positions computed. One pass is
one forward over a token; a backward counts as two.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class CostLedger:
    """Seconds, tokens and passes by phase."""

    def __init__(self, stored: dict[str, dict[str, float]] | None = None) -> None:
        """Continue a `stored` ledger, or begin a new one."""
        self.phases: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for phase, entries in (stored or {}).items():
            self.phases[phase].update(entries)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to a phase."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.phases[phase]["seconds"] += time.perf_counter() - began

    def count(self, phase: str, **amounts: float) -> None:
        """Add to a phase's counters, e.g. `tokens`, `padded`, `student_passes`."""
        for name, amount in amounts.items():
            self.phases[phase][name] += amount

    def state(self) -> dict[str, dict[str, float]]:
        """What `CostLedger(stored)` takes back."""
        return {phase: dict(entries) for phase, entries in self.phases.items()}

    def summary(self) -> dict[str, Any]:
        """By phase: seconds, tokens a second, fill; and passes a rollout token over the whole run."""
        rollout_tokens = self.phases["collect"]["tokens"]
        report: dict[str, Any] = {}
        for phase, entries in self.phases.items():
            seconds, tokens, padded = entries["seconds"], entries["tokens"], entries["padded"]
            report[phase] = {
                "seconds": round(seconds, 3),
                "tokens": int(tokens),
                "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
                "fill": round(tokens / padded, 4) if padded else None,
            }
        if rollout_tokens:
            names = (
                "student_decode",
                "teacher_decode",
                "student_forward",
                "student_backward",
                "teacher_forward",
            )
            totals = {n: sum(p[n] for p in self.phases.values()) for n in names}
            report["passes_per_rollout_token"] = {n: round(v / rollout_tokens, 3) for n, v in totals.items()}
        return report
