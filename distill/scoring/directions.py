"""Which way is up for each metric: directions.yaml, read. `tasks/metrics.py` reads the same file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from distill.project.settings import read_yaml

_SIGNS = {"higher": 1, "lower": -1}


def direction(name: str) -> int:
    """1 where a higher value of the metric is better, -1 where a lower one is, 0 where neither is.

    Of a dotted name, `<student>.<model>.….<metric>`, the last part or the one before it decides, as in
    `tiny.kd.toy.rouge_l_by_length.11+`; a model may have a metric's name.
    """
    parts = name.split(".")
    return next((_known()[part] for part in reversed(parts[2:][-2:] or parts[-1:]) if part in _known()), 0)


def lower_is_better(name: str) -> bool:
    """Whether less of the metric is better."""
    return direction(name) < 0


@cache
def _known() -> dict[str, int]:
    path = Path(__file__).with_name("directions.yaml")
    return {name: _SIGNS[better] for name, better in read_yaml(path).items()}
