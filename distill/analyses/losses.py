"""Mean losses of several models on the same references, with intervals and paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any

from distill.project.randomness import key
from distill.scoring.directions import lower_is_better
from distill.scoring.paired import compare_scores
from distill.scoring.statistics import bootstrap_interval, interval_entry


def summarize(losses: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """`models`: mean loss of each model with its 95 % interval over examples; `against`: each against each other."""
    # One row of losses: references are given, so there is no sampling seed to draw.
    # fsum rounds once: the order of the examples does not change the mean.
    models = {
        model: interval_entry(
            fsum(values) / len(values), bootstrap_interval([values], key(seed, "loss interval", model)), len(values)
        )
        for model, values in losses.items()
    }
    against = compare_scores(
        {model: [values] for model, values in losses.items()},
        lambda model: key(seed, "loss comparison", model),
        lower_is_better("loss"),
    )
    return {"models": models, "against": against}
