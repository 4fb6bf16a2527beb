"""Intervals and paired tests over evaluation scores, S sampling seeds × N examples.

What they speak of: other prompts of the same kind and other sampling seeds of the *same* trained models.
Training the models again with another seed moves the numbers too; several training seeds show by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill.project.errors import DataError

Scores = Sequence[Sequence[float]]
Array = NDArray[np.float64]
Verdict = Literal["better", "not distinguishable", "worse"]

_DRAWS = 5_000
_LEVEL = 0.95
_DRAWS_A_BLOCK = 500
_DIGITS = 4


def _matrix(scores: Scores, name: str) -> Array:
    matrix = np.array(scores, dtype=np.float64) if len({len(row) for row in scores}) == 1 else np.empty((0, 0))
    if matrix.size == 0:
        raise DataError(f"{name} must be one row of example scores for each seed, all of one length; score again")
    return matrix


def _percentiles(values: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(generator: np.random.Generator, rows: int, draws: int) -> Array:
    """How often each of `rows` rows occurs in each of `draws` samples of that size, [draws, rows]."""
    return generator.multinomial(rows, np.full(rows, 1 / rows), size=draws).astype(np.float64)


def _blocks(draws: int) -> Iterator[tuple[slice, int]]:
    """The draws in blocks, so that draws × prompts never stand in memory at once."""
    for start in range(0, draws, _DRAWS_A_BLOCK):
        stop = min(start + _DRAWS_A_BLOCK, draws)
        yield slice(start, stop), stop - start


def bootstrap_interval(scores: Scores, seed: int, draws: int = _DRAWS, level: float = _LEVEL) -> tuple[float, float]:
    """Percentile interval of the mean score over examples and seeds.

    Draws examples and, independently, seeds with replacement (the crossed or "pigeonhole" bootstrap, Owen
    2007, doi:10.1214/07-AOAS122): somewhat wide where sampling noise within a prompt dominates.
    """
    matrix = _matrix(scores, "the scores")
    seeds, examples = matrix.shape
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    # how often each row is drawn, rather than which: the mean is then two small products
    for block, size in _blocks(draws):
        by_example = _counts(generator, examples, size)
        by_seed = _counts(generator, seeds, size)
        drawn = ((by_example @ matrix.T) * by_seed).sum(axis=1)
        means[block] = drawn / (seeds * examples)
    return _percentiles(means, level)


@dataclass(frozen=True)
class Comparison:
    """Model A minus model B on the same prompts."""

    difference: float
    interval: tuple[float, float]
    """Paired bootstrap interval of the difference."""
    standard_error: float
    p_value: float
    """Two-sided, of the sign-flip permutation test."""
    verdict: Verdict
    """Of A: "better" or "worse" if the interval leaves out 0 and the p-value agrees (for few prompts)."""


def interval_entry(mean: float, interval: tuple[float, float]) -> dict[str, Any]:
    """`mean` and `ci95` as results files hold them: the interval is a list, which `dvc metrics diff` leaves out."""
    return {"mean": round(mean, _DIGITS), "ci95": [round(bound, _DIGITS) for bound in interval]}


def comparison_entry(compared: Comparison) -> dict[str, Any]:
    """A comparison as results files hold it."""
    return {
        "difference": round(compared.difference, _DIGITS),
        "ci95": [round(bound, _DIGITS) for bound in compared.interval],
        "standard_error": round(compared.standard_error, _DIGITS),
        "p_value": round(compared.p_value, _DIGITS),
        "verdict": compared.verdict,
    }


def compare(
    a: Scores,
    b: Scores,
    seed: int,
    draws: int = _DRAWS,
    level: float = _LEVEL,
    lower_is_better: bool = False,
) -> Comparison:
    """Compare model A with model B, example by example; the n-th column of both is the same prompt.

    A prompt's scores are first averaged over its seeds, so that sampling noise is part of the spread between
    prompts; their differences are then drawn with replacement (interval) or given random signs (p-value).
    Raises: DataError when the two were not scored on the same number of prompts.
    """
    mean_a, mean_b = _matrix(a, "the scores of A").mean(axis=0), _matrix(b, "the scores of B").mean(axis=0)
    if mean_a.shape != mean_b.shape:
        raise DataError(
            f"{len(mean_a)} prompts cannot be compared with {len(mean_b)}; score both models on the same set"
        )
    differences = mean_a - mean_b
    count = len(differences)
    observed = float(differences.mean())
    generator = np.random.default_rng(seed)
    drawn, flipped = np.empty(draws), np.empty(draws)
    for block, size in _blocks(draws):
        drawn[block] = _counts(generator, count, size) @ differences / count
        signs = 2 * generator.integers(0, 2, size=(size, count), dtype=np.int8) - 1
        flipped[block] = signs @ differences / count
    standard_error = float(differences.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    return _comparison(observed, standard_error, drawn, flipped, level, lower_is_better)


def _comparison(
    observed: float, standard_error: float, drawn: Array, permuted: Array, level: float, lower_is_better: bool
) -> Comparison:
    """What bootstrap draws of the difference and its values under permutation say about `observed`."""
    low, high = _percentiles(drawn, level)
    # what was observed is one permutation: without the +1 a p-value could be 0; the slack is for rounding
    as_extreme = int((np.abs(permuted) >= abs(observed) - 1e-12).sum())
    p_value = (as_extreme + 1) / (len(permuted) + 1)
    verdict: Verdict = "not distinguishable"
    if p_value <= 1 - level and (low > 0 or high < 0):
        verdict = "better" if (low > 0) != lower_is_better else "worse"
    return Comparison(observed, (low, high), standard_error, p_value, verdict)


Statistic = Callable[[Array], Array]
"""A statistic made of sums over prompts: [..., K] sums to [...] or [..., L] values, e.g. nats over tokens."""


def ratio(sums: Array) -> Array:
    """The statistic whose two columns are numerator and denominator."""
    quotient: Array = sums[..., 0] / sums[..., 1]
    return quotient


def statistic_interval(
    columns: Array, statistic: Statistic, seed: int, draws: int = _DRAWS, level: float = _LEVEL
) -> Array:
    """Percentile interval, low and high first, of a statistic of the column sums of `columns` [N, K].

    Prompts are drawn with replacement. A prompt is drawn with all its responses, so what they share does not
    make the interval too narrow.
    """
    generator = np.random.default_rng(seed)
    drawn = np.concatenate([statistic(_counts(generator, len(columns), size) @ columns) for _, size in _blocks(draws)])
    interval: Array = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return interval


def compare_statistic(
    a: Array,
    b: Array,
    statistic: Statistic,
    seed: int,
    draws: int = _DRAWS,
    level: float = _LEVEL,
    lower_is_better: bool = False,
) -> Comparison:
    """Compare a statistic of A's and of B's column sums, both [N, K] over the same N prompts.

    Paired bootstrap, and a permutation test that exchanges A and B at random prompts.
    Raises: DataError when they are not over the same number of prompts.
    """
    count = len(a)
    if count != len(b):
        raise DataError(f"{count} prompts cannot be compared with {len(b)}; measure both models on the same")
    generator = np.random.default_rng(seed)
    drawn, permuted = np.empty(draws), np.empty(draws)
    for block, size in _blocks(draws):
        counts = _counts(generator, count, size)
        drawn[block] = statistic(counts @ a) - statistic(counts @ b)
        moved = generator.integers(0, 2, size=(size, count)).astype(np.float64) @ (b - a)
        permuted[block] = statistic(a.sum(axis=0) + moved) - statistic(b.sum(axis=0) - moved)
    observed = float(statistic(a.sum(axis=0)) - statistic(b.sum(axis=0)))
    return _comparison(observed, float(drawn.std(ddof=1)), drawn, permuted, level, lower_is_better)
