"""A sweep's points side by side: settings and metrics, best first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.errors import RebuildError
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
            [point.name, *(point.settings.get(key, "") for key in settings), self.numbers[point.name][self.metric]]
            for point in self.points
        ]
        short = [key.rpartition(".")[2].rpartition(":")[2] for key in settings]
        return table(["point", *short, self.metric], rows, "No point was built.") + "\n"

    def _settings(self) -> list[str]:
        return list(dict.fromkeys(key for point in self.points for key in point.settings))

    def _metrics(self) -> list[str]:
        names = dict.fromkeys(name for values in self.numbers.values() for name in values)
        return [self.metric, *(name for name in names if name != self.metric)]


def compare(sweep: Sweep, numbers: Mapping[str, Mapping[str, MetricValue]]) -> PointComparison:
    """Rank the points of `sweep` that `numbers` has, by its metric.

    Raises: RebuildError when a point's results do not hold that metric.
    """
    built = [point for point in sweep.points if point.name in numbers]
    for point in built:
        if sweep.metric not in numbers[point.name]:
            known = ", ".join(sorted(numbers[point.name])[:8])
            raise RebuildError(f"{point.name} has no metric {sweep.metric!r}.\nName one of: {known}, …")
    sign = 1 if lower_is_better(sweep.metric) else -1
    ranked = sorted(built, key=lambda point: sign * numbers[point.name][sweep.metric].mean)
    return PointComparison(sweep.metric, ranked, numbers)
