"""Mean losses of several models on the same references, with intervals and paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any

from distill.project.randomness import key
from distill.scoring.names import REFERENCE_METHOD
from distill.scoring.statistics import bootstrap_interval, compare, comparison_entry, interval_entry


def summarize(losses: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """`models`: mean loss of each model with its 95 % interval over examples; `against`: MiniLLM against each."""
    models = {}
    against: dict[str, Any] = {}
    for model, values in losses.items():
        interval = bootstrap_interval([values], key(seed, "loss interval", model))
        models[model] = interval_entry(fsum(values) / len(values), interval)
        if REFERENCE_METHOD in losses and model != REFERENCE_METHOD:
            seeds = key(seed, "loss comparison", model)
            against[model] = comparison_entry(
                compare([losses[REFERENCE_METHOD]], [values], seeds, lower_is_better=True)
            )
    return {"models": models, "against": against}
