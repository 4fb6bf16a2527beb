"""Intervals and paired tests over evaluation scores, S sampling seeds × N examples.

What they speak of: other prompts of the same kind and other sampling seeds of the *same* trained models.
Training the models again with another seed moves the numbers too; several training seeds show by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill.project.errors import DataError

Scores = Sequence[Sequence[float]]
Verdict = Literal["better", "not distinguishable", "worse"]

_DRAWS = 5_000
_LEVEL = 0.95
_DRAWS_A_BLOCK = 500


def _matrix(scores: Scores, name: str) -> NDArray[np.float64]:
    matrix = np.array(scores, dtype=np.float64) if len({len(row) for row in scores}) == 1 else np.empty((0, 0))
    if matrix.size == 0:
        raise DataError(f"{name} must be one row of example scores for each seed, all of one length; score again")
    return matrix


def _percentiles(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
    for start in range(0, draws, _DRAWS_A_BLOCK):
        block = min(_DRAWS_A_BLOCK, draws - start)
        by_example = generator.multinomial(examples, np.full(examples, 1 / examples), size=block)
        by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=block)
        drawn = ((by_example @ matrix.T) * by_seed).sum(axis=1)
        means[start : start + block] = drawn / (seeds * examples)
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


def compare(a: Scores, b: Scores, seed: int, draws: int = _DRAWS, level: float = _LEVEL) -> Comparison:
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
    for start in range(0, draws, _DRAWS_A_BLOCK):
        block = slice(start, min(start + _DRAWS_A_BLOCK, draws))
        size = block.stop - block.start
        counts = generator.multinomial(count, np.full(count, 1 / count), size=size)
        drawn[block] = counts @ differences / count
        signs = 2 * generator.integers(0, 2, size=(size, count), dtype=np.int8) - 1
        flipped[block] = signs @ differences / count
    interval = _percentiles(drawn, level)
    # the observed signs are one permutation: without the +1 a p-value could be 0; the slack is for rounding
    as_extreme = int((np.abs(flipped) >= abs(observed) - 1e-12).sum())
    p_value = (as_extreme + 1) / (draws + 1)
    return Comparison(
        difference=observed,
        interval=interval,
        standard_error=float(differences.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0,
        p_value=p_value,
        verdict=_verdict(interval, significant=p_value <= 1 - level),
    )


def _verdict(interval: tuple[float, float], significant: bool) -> Verdict:
    if significant and interval[0] > 0:
        return "better"
    return "worse" if significant and interval[1] < 0 else "not distinguishable"
