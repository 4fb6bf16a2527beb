"""Exposure bias: how much more a student errs along its own text than along its teacher's (paper Eq. 30-32).

    R(l)         = sum over t <= l of E KL(p || q) at prefixes y_<t that the student q wrote
    l eps(l)     = sum over t <= l of E KL(p || q) at prefixes y_<t that the teacher p wrote
    ExAccErr(l)  = (R(l) - l eps(l)) / (l eps(l)) x 100 %

The paper prints the upper limit of eps as T; it must be l, or the curve would not be a ratio of like sums. The
inner expectation over y_t ~ p is exact, the divergence over the vocabulary. A response that has ended adds
nothing any more, in both sums.

That a student writes longer than its teacher therefore counts as error too. `error_a_token` leaves length out:
the same ratio, of means over tokens instead of sums over responses. `error_as_released` is what the authors' code
computes: at each position, from the second on, the mean over those samples of a prompt that still go on, then the sum
over positions and the mean over prompts. A few long samples weigh in it as much as all, so it may even differ in sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distill.analyses.divergence import nats_and_tokens
from distill.evaluation.traces import Trace, Traces
from distill.project.randomness import key
from distill.scoring.directions import lower_is_better
from distill.scoring.paired import compare_statistics, joined
from distill.scoring.statistics import Array, Statistic, interval_entry, statistic_interval

_DIGITS = 3
_CURVE_DRAWS = 2_000  # for an interval at every length


def cumulated(traces: Sequence[Trace], length: int) -> Array:
    """KL(p || q) summed over the first l tokens and over a prompt's samples, [N prompts, `length`], column l - 1."""
    sums = np.zeros((1 + max(trace.prompt for trace in traces), length))
    for trace in traces:
        # Past its end a response adds 0 nats, so its cumulated sum stays level there.
        tokens = min(len(trace.forward_kl), length)
        sums[trace.prompt, :tokens] += trace.forward_kl[:tokens]
    return sums.cumsum(axis=1)


def cumulated_as_released(traces: Sequence[Trace], length: int) -> Array:
    """KL(p || q) over tokens 2 to `length`, at each the mean over a prompt's samples that go on, summed; [N, 1]."""
    sums = np.zeros((1 + max(trace.prompt for trace in traces), length))
    going_on = np.zeros_like(sums)
    for trace in traces:
        tokens = min(len(trace.forward_kl), length)
        sums[trace.prompt, :tokens] += trace.forward_kl[:tokens]
        going_on[trace.prompt, :tokens] += 1
    # Where no sample goes on, the sum is 0 as well: a divisor of 1 keeps the quotient 0.
    summed: Array = (sums / np.maximum(going_on, 1))[:, 1:].sum(axis=1, keepdims=True)
    return summed


def excess(sums: Array) -> Array:
    """ExAccErr(l) in per cent from sums over prompts: [..., 2 L], own then teacher's samples, to [..., L]."""
    # Both halves have the same prompts and as many samples of each, so sums stand for expectations in the ratio.
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
    """`models`: each method's curve and its end, in per cent; `against`: each method against each other.

    The curve holds, for l = 1, 2, ..., the error with its 95 % interval over prompts.
    """
    # One length for all methods, so that every curve ends at the same l.
    length = max(len(t.forward_kl) for each in traces.values() for ts in each.values() for t in ts)
    curves = {method: _both(each, lambda own: cumulated(own, length)) for method, each in traces.items()}
    columns: dict[str, dict[str, Array]] = {
        # The last column of the student's half and of the teacher's: the error over whole responses.
        "error": {method: each[:, [length - 1, -1]] for method, each in curves.items()},
        "error_a_token": {
            method: _both(each, lambda own: nats_and_tokens(own, "forward_kl")) for method, each in traces.items()
        },
        "error_as_released": {
            method: _both(each, lambda own: cumulated_as_released(own, length)) for method, each in traces.items()
        },
    }
    models: dict[str, Any] = {}
    for method in traces:
        # One key for a method's three quantities: the draws of the curve are the first of those of the other two.
        seeds = key(seed, "exposure interval", method)
        errors, (lows, highs) = (
            excess(curves[method].sum(axis=0)),
            statistic_interval(curves[method], excess, seeds, draws=_CURVE_DRAWS),
        )
        models[method] = {
            "error": interval_entry(float(errors[-1]), (float(lows[-1]), float(highs[-1])), len(curves[method])),
            **{
                name: _end(columns[name][method], _STATISTICS[name], seeds)
                for name in ("error_a_token", "error_as_released")
            },
            "curve": {
                name: [round(float(value), _DIGITS) for value in values]
                for name, values in (("error", errors), ("low", lows), ("high", highs))
            },
        }
    compared = {
        name: compare_statistics(
            by_method,
            _STATISTICS[name],
            # Keyed by the method alone: a pair's three quantities come from the same draws.
            lambda method: key(seed, "exposure comparison", method),
            lower_is_better(name),
        )
        for name, by_method in columns.items()
    }
    return {"models": models, "against": joined(compared, traces)}


def _both(traces: Traces, columns: Callable[[Sequence[Trace]], Array]) -> Array:
    """The columns of the student's own samples, then those of the teacher's."""
    return np.hstack([columns(traces["own"]), columns(traces["teacher"])])


def _excess_at_the_end(sums: Array) -> Array:
    last: Array = excess(sums)[..., 0]
    return last


_STATISTICS: dict[str, Statistic] = {
    "error": _excess_at_the_end,
    "error_a_token": excess_a_token,
    "error_as_released": _excess_at_the_end,
}


def _end(columns: Array, statistic: Statistic, seed: int) -> dict[str, Any]:
    low, high = statistic_interval(columns, statistic, seed)
    return interval_entry(float(statistic(columns.sum(axis=0))), (float(low), float(high)), len(columns))
