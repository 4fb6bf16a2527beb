"""Reverse and forward KL between a teacher and its students, nats a token, from the traces of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import stdev
from typing import Any

import numpy as np

from distill.evaluation.traces import Direction, Source, Trace, Traces
from distill.project.randomness import key
from distill.scoring.directions import lower_is_better
from distill.scoring.paired import compare_statistics, joined
from distill.scoring.statistics import Array, interval_entry, ratio, statistic_interval

_DIGITS = 4

# The two that the literature calls reverse and forward KL first, then the crossed ones.
QUANTITIES: dict[str, tuple[Source, Direction]] = {
    "reverse_kl": ("own", "reverse_kl"),
    "forward_kl": ("teacher", "forward_kl"),
    "reverse_kl_on_teacher_samples": ("teacher", "reverse_kl"),
    "forward_kl_on_own_samples": ("own", "forward_kl"),
}


def nats_and_tokens(traces: Sequence[Trace], direction: Direction) -> Array:
    """Sums over the samples of each prompt, [N, 2]: nats of the divergence, and tokens."""
    # One row a prompt: its samples share what makes it hard, so a bootstrap must draw them together.
    sums = np.zeros((1 + max(trace.prompt for trace in traces), 2))
    for trace in traces:
        values = trace.reverse_kl if direction == "reverse_kl" else trace.forward_kl
        # Kept in float32, summed as Python numbers, which are float64.
        sums[trace.prompt] += (sum(values), len(values))
    return sums


def summarize(traces: Mapping[str, Traces], seed: int) -> dict[str, Any]:
    """`models`: nats a token of each method for each of `QUANTITIES`; `against`: each method against each other.

    Means with their 95 % interval over prompts and their std over several sampling seeds.
    """
    models: dict[str, dict[str, Any]] = {method: {} for method in traces}
    compared = {}
    for name, (source, direction) in QUANTITIES.items():
        sums = {method: nats_and_tokens(each[source], direction) for method, each in traces.items()}
        for method, each in traces.items():
            # Keyed by the quantity, not by the method: all methods' intervals come from the same draws of prompts.
            models[method][name] = _mean(each[source], direction, sums[method], key(seed, "divergence interval", name))
        seeds = partial(_seed, seed, name)
        compared[name] = compare_statistics(sums, ratio, seeds, lower_is_better(name))
    return {"models": models, "against": joined(compared, traces)}


def _seed(seed: int, quantity: str, method: str) -> int:
    return key(seed, "divergence comparison", method, quantity)


def _mean(traces: Sequence[Trace], direction: Direction, sums: Array, seed: int) -> dict[str, Any]:
    low, high = statistic_interval(sums, ratio, seed)
    # Sums over one seed's samples before the ratio, so that a token weighs as much as in the mean over all seeds.
    by_seed = [
        float(ratio(nats_and_tokens([t for t in traces if t.seed == s], direction).sum(axis=0)))
        for s in sorted({trace.seed for trace in traces})
    ]
    return {
        **interval_entry(float(ratio(sums.sum(axis=0))), (float(low), float(high)), len(sums)),
        **({"std": round(stdev(by_seed), _DIGITS)} if len(by_seed) > 1 else {}),
    }
