"""Exposure bias: how much more a student errs along its own text than along its teacher's (paper Eq. 30-32).

    R(l)         = sum over t <= l of E KL(p || q) at prefixes y_<t that the student q wrote
    l eps(l)     = sum over t <= l of E KL(p || q) at prefixes y_<t that the teacher p wrote
    ExAccErr(l)  = (R(l) - l eps(l)) / (l eps(l)) x 100 %

The paper prints the upper limit of eps as T; it must be l, or the curve would not be a ratio of like sums. The
inner expectation over y_t ~ p is exact, the divergence over the vocabulary. A response that has ended adds
nothing any more, in both sums. The reference implementation averages a prompt's samples that still go on, and
misses the first token.

That a student writes longer than its teacher therefore counts as error too. `error_a_token` leaves length out:
the same ratio, of means over tokens instead of sums over responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.evaluation.traces import Trace, Traces, nats_and_tokens
from distill.project.randomness import key
from distill.scoring.names import REFERENCE_METHOD
from distill.scoring.statistics import (
    Array,
    Statistic,
    compare_statistic,
    comparison_entry,
    interval_entry,
    statistic_interval,
)

_DIGITS = 3
_CURVE_DRAWS = 2_000  # for an interval at every length


def cumulated(traces: Sequence[Trace], length: int) -> Array:
    """KL(p || q) summed over the first l tokens and over a prompt's samples, [N prompts, `length`], column l - 1."""
    sums = np.zeros((1 + max(trace.prompt for trace in traces), length))
    for trace in traces:
        tokens = min(len(trace.forward_kl), length)
        sums[trace.prompt, :tokens] += trace.forward_kl[:tokens]
    return sums.cumsum(axis=1)


def excess(sums: Array) -> Array:
    """ExAccErr(l) in per cent from sums over prompts: [..., 2 L], own then teacher's samples, to [..., L]."""
    own, teacher = np.split(sums, 2, axis=-1)
    return _in_excess(own, teacher)


def excess_a_token(sums: Array) -> Array:
    """The excess in per cent of means over tokens, from own nats and tokens and teacher's nats and tokens."""
    return _in_excess(np.asarray(sums[..., 0] / sums[..., 1]), np.asarray(sums[..., 2] / sums[..., 3]))


def _in_excess(own: Array, teacher: Array) -> Array:
    # where even the teacher's own prefixes hold no error, there is nothing to be in excess of
    errors: Array = 100 * np.divide(own, teacher, out=np.ones_like(own), where=teacher > 0) - 100
    return errors


def exposure(traces: Mapping[str, Traces], seed: int) -> dict[str, Any]:
    """`models`: each method's curve and its end, in per cent; `against`: MiniLLM against each other.

    The curve holds, for l = 1, 2, ..., the error with its 95 % interval over prompts.
    """
    length = max(len(t.forward_kl) for each in traces.values() for ts in each.values() for t in ts)
    columns = {
        method: np.hstack([cumulated(each["own"], length), cumulated(each["teacher"], length)])
        for method, each in traces.items()
    }
    tokens = {
        method: np.hstack([nats_and_tokens(each[source], "forward_kl") for source in ("own", "teacher")])
        for method, each in traces.items()
    }
    models = {
        method: _one(columns[method], tokens[method], key(seed, "exposure interval", method)) for method in traces
    }
    ends = {method: each[:, [length - 1, -1]] for method, each in columns.items()}
    against: dict[str, Any] = {}
    for method in traces:
        if REFERENCE_METHOD in traces and method != REFERENCE_METHOD:
            seeds = key(seed, "exposure comparison", method)
            against[method] = {
                "error": _compare(ends[REFERENCE_METHOD], ends[method], _end, seeds),
                "error_a_token": _compare(tokens[REFERENCE_METHOD], tokens[method], excess_a_token, seeds),
            }
    return {"models": models, "against": against}


def _end(sums: Array) -> Array:
    last: Array = excess(sums)[..., 0]
    return last


def _compare(a: Array, b: Array, statistic: Statistic, seed: int) -> dict[str, Any]:
    return comparison_entry(compare_statistic(a, b, statistic, seed, lower_is_better=True))


def _one(columns: Array, tokens: Array, seed: int) -> dict[str, Any]:
    errors = excess(columns.sum(axis=0))
    lows, highs = statistic_interval(columns, excess, seed, draws=_CURVE_DRAWS)
    low, high = statistic_interval(tokens, excess_a_token, seed)
    return {
        "error": interval_entry(float(errors[-1]), (float(lows[-1]), float(highs[-1]))),
        "error_a_token": interval_entry(float(excess_a_token(tokens.sum(axis=0))), (float(low), float(high))),
        "curve": {
            "error": [round(float(value), _DIGITS) for value in errors],
            "low": [round(float(value), _DIGITS) for value in lows],
            "high": [round(float(value), _DIGITS) for value in highs],
        },
    }
