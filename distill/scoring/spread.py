"""Scores as text, with their spread over sampling seeds where there are several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_spread(score: Mapping[str, Any], digits: int) -> str:
    """`61.2 ± 0.8`: a mean and its standard deviation over sampling seeds; `61.2` of one seed, which has none."""
    # By the seeds and not by the deviation: files of before say 0.0 of one.
    several = "std" in score and len(score.get("per_seed", ())) != 1
    return f"{score['mean']:.{digits}f}" + (f" ± {score['std']:.{digits}f}" if several else "")
