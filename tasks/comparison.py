"""A sweep's points side by side: settings and metrics, best first."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.grid import Point, Sweep
from tasks.metrics import MetricValue, lower_is_better
from tasks.report import table


@dataclass(frozen=True)
class PointComparison:
    """The rows of a comparison table."""

    metric: str
    points: Sequence[Point]
    """Best first."""
    numbers: Mapping[str, Mapping[str, MetricValue]]
    """Point → metric → value."""

    @property
    def fault(self) -> str:
        """A sentence about the points whose results do not hold the metric, which come last; "" without any."""
        without = [point.name for point in self.points if self.metric not in self.numbers[point.name]]
        if not without:
            return ""
        known = ", ".join(difflib.get_close_matches(self.metric, self.numbers[without[0]], cutoff=0.0, n=8))
        return (
            f"no metric {self.metric!r} in the results of {', '.join(without)}, last in the table. "
            f"Correct `metric` in the sweep, e.g. to one of {known or 'the metrics that its targets write'}, "
            "and run the same command."
        )

    def csv(self) -> str:
        """One line for each point: its settings, then mean, low and high end of each metric."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        settings, metrics = self._settings(), self._metrics()
        ends = [f"{name}{end}" for name in metrics for end in ("", ".low", ".high")]
        writer.writerow(["point", *settings, *ends])
        for point in self.points:
            row: list[object] = [point.name, *(point.settings.get(key, "") for key in settings)]
            for name in metrics:
                value = self.numbers[point.name].get(name)
                row += ["", "", ""] if value is None else [value.mean, *(value.interval or ("", ""))]
            writer.writerow(row)
        return text.getvalue()

    def markdown(self) -> str:
        """The settings that differ and the metric that ranks them, with its interval."""
        settings = self._settings()
        rows = [
            [
                point.name,
                *(point.settings.get(key, "") for key in settings),
                self.numbers[point.name].get(self.metric, "–"),
            ]
            for point in self.points
        ]
        short = [key.rpartition(".")[2].rpartition(":")[2] for key in settings]
        drawn = table(["point", *short, self.metric], rows, "No point was built.") + "\n"
        ranked = [value.mean for point in self.points if (value := self.numbers[point.name].get(self.metric))]
        if len(ranked) > 1 and len(set(ranked)) == 1:
            drawn += f"\nAll points have the same {self.metric}: it ranks none of them.\n"
        return drawn

    def _settings(self) -> list[str]:
        return list(dict.fromkeys(key for point in self.points for key in point.settings))

    def _metrics(self) -> list[str]:
        names = dict.fromkeys(name for values in self.numbers.values() for name in values)
        return [self.metric, *(name for name in names if name != self.metric)]


def compare(sweep: Sweep, numbers: Mapping[str, Mapping[str, MetricValue]]) -> PointComparison:
    """Rank the points of `sweep` that `numbers` has, by its metric; those without it last."""
    sign = 1 if lower_is_better(sweep.metric) else -1

    def rank(point: Point) -> tuple[bool, float]:
        value = numbers[point.name].get(sweep.metric)
        return value is None, 0.0 if value is None else sign * value.mean

    built = [point for point in sweep.points if point.name in numbers]
    return PointComparison(sweep.metric, sorted(built, key=rank), numbers)
