"""Metrics of a clone: the verdicts of `python -m commands.compare`, and metrics files as values.

Only that command judges, in a process of its own, whether a metric is better, worse or within noise.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.processes import environment

COMPARE = (sys.executable, "-m", "commands.compare")
_DIRECTIONS = Path(__file__).resolve().parents[1] / "distill" / "scoring" / "directions.yaml"
_SPREAD = ("std", "ci95", "per_seed")


@dataclass(frozen=True)
class MetricValue:
    """A number with its 95 % interval, where the metrics file gives one."""

    mean: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        spread = "" if self.interval is None else f" [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"
        return f"{self.mean:.4g}{spread}"


@dataclass(frozen=True)
class MetricChange:
    """One metric before and after."""

    name: str
    """File stem and keys: `tiny.minillm.toy_id.rouge_l`."""
    old: MetricValue | None
    new: MetricValue | None
    verdict: str
    """The command's: `worse`, `better`, `changed`, `too few prompts`, `new`, `gone` or `within noise`."""


@dataclass(frozen=True)
class CommitMetrics:
    """The working tree against a commit, or the reason for the lack of it."""

    text: str = ""
    """Markdown, as `--markdown` writes it."""
    metrics: Sequence[MetricChange] = ()
    failure: str = ""
    """The command's own error; then no metric is known to be better or worse."""

    @property
    def worse(self) -> list[MetricChange]:
        """Metrics that got worse by more than chance."""
        return [change for change in self.metrics if change.verdict == "worse"]


def compare_with(root: Path, rev: str, command: Sequence[str] = COMPARE) -> CommitMetrics:
    """Compare the working tree of `root` with commit `rev`; a command that fails or cannot be read is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        numbers, text = Path(folder) / "compare.json", Path(folder) / "compare.md"
        asked = [*command, rev, "--json", str(numbers), "--markdown", str(text)]
        done = subprocess.run(asked, cwd=root, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
            return CommitMetrics(failure=f"`python -m commands.compare {rev}` failed: {said}")
        try:
            metrics = [_change(row) for row in json.loads(numbers.read_text(encoding="utf-8"))["metrics"]]
            return CommitMetrics(text.read_text(encoding="utf-8"), metrics)
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            return CommitMetrics(failure=f"`python -m commands.compare {rev}` wrote what cannot be read ({reason})")


def _change(row: Mapping[str, Any]) -> MetricChange:
    old, new = (None if row[side] is None else _value(row[side]) for side in ("old", "new"))
    return MetricChange(row["name"], old, new, row["verdict"])


def _value(number: Mapping[str, Any]) -> MetricValue:
    ends = number.get("ci95")
    return MetricValue(float(number["mean"]), (float(ends[0]), float(ends[1])) if ends else None)


def values(content: Any, name: str) -> Iterator[tuple[str, MetricValue]]:
    """A metrics file's numbers by dotted name; {"mean": …, "ci95": [low, high]} is one, with its interval."""
    if isinstance(content, bool):
        return
    if isinstance(content, int | float):
        yield name, MetricValue(float(content))
    elif isinstance(content, Mapping) and isinstance(content.get("mean"), int | float):
        yield name, _value(content)
    elif isinstance(content, Mapping):
        for key, inner in content.items():
            if key not in _SPREAD:
                yield from values(inner, f"{name}.{key}")


def lower_is_better(name: str) -> bool:
    """Whether a sweep that ranks its points by this metric puts the lowest first, as for a loss.

    Of a dotted name, `<student>.<model>.….<metric>`, the last part or the one before it decides, as where
    `commands.compare` judges.
    """
    known, parts = YAML(typ="safe").load(_DIRECTIONS.read_text(encoding="utf-8")), name.split(".")
    return next((known[part] == "lower" for part in reversed(parts[2:][-2:] or parts[-1:]) if part in known), False)
