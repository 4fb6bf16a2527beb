"""Intervals and paired tests over evaluation scores, S sampling seeds × N examples.

What they speak of: other prompts of the same kind and other sampling seeds of the *same* trained models.
Training the models again with another seed moves the numbers too; several training seeds show by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill.project.errors import DataError
from distill.scoring.draws import exchanging, resampled, signed

Scores = Sequence[Sequence[float]]
Array = NDArray[np.float64]
Verdict = Literal["better", "not distinguishable", "worse", "too few prompts"]
"""The last where no outcome of the test could settle anything."""

DRAWS = 5_000
FEWEST_PROMPTS = 6
"""Of fewer prompts no sign-flip test settles anything: its smallest p-value is 2 / 2^n, over 0.05 up to five."""
_LEVEL = 0.95
_DIGITS = 4
_NO_DIFFERENCE = 1e-12  # what rounding leaves of none


def score_matrix(scores: Scores, name: str) -> Array:
    """Scores as an array [S, N]. Raises: DataError, naming them, when they are not one row of numbers a seed."""
    # Rows of unequal lengths would make NumPy raise an error that does not name the scores.
    matrix = np.array(scores, dtype=np.float64) if len({len(row) for row in scores}) == 1 else np.empty((0, 0))
    if matrix.size == 0:
        raise DataError(f"{name} must be one row of example scores for each seed, all of one length; score again")
    return matrix


def _percentiles(values: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(scores: Scores, seed: int, draws: int = DRAWS, level: float = _LEVEL) -> tuple[float, float]:
    """Percentile interval of the mean score over examples and seeds.

    Draws examples and, independently, seeds with replacement (the crossed or "pigeonhole" bootstrap, Owen
    2007, doi:10.1214/07-AOAS122): somewhat wide where sampling noise within a prompt dominates.
    """
    matrix = score_matrix(scores, "the scores")
    seeds, examples = matrix.shape
    means = np.empty(draws)
    # how often each row is drawn, rather than which: the mean is then two small products
    for block, (by_example, by_seed) in resampled(seed, examples, seeds, draws):
        drawn = ((by_example @ matrix.T) * by_seed).sum(axis=1)
        # The counts of every draw add up to S and to N, so the weights of its cells add up to S x N.
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


def interval_entry(mean: float, interval: tuple[float, float], prompts: int) -> dict[str, Any]:
    """`mean` and `ci95` as results files hold them: the interval is a list, which `dvc metrics diff` leaves out.

    The number of `prompts` stands there where it is too small for the interval to be believed.
    """
    few = {"prompts": prompts} if prompts < FEWEST_PROMPTS else {}
    return {"mean": round(mean, _DIGITS), "ci95": [round(bound, _DIGITS) for bound in interval], **few}


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
    draws: int = DRAWS,
    level: float = _LEVEL,
    lower_is_better: bool = False,
) -> Comparison:
    """Compare model A with model B, example by example; the n-th column of both is the same prompt.

    A prompt's scores are first averaged over its seeds, so that sampling noise is part of the spread between
    prompts; their differences are then drawn with replacement (interval) or given random signs (p-value).
    Raises: DataError when the two were not scored on the same number of prompts.
    """
    mean_a, mean_b = score_matrix(a, "the scores of A").mean(axis=0), score_matrix(b, "the scores of B").mean(axis=0)
    if mean_a.shape != mean_b.shape:
        raise DataError(
            f"{len(mean_a)} prompts cannot be compared with {len(mean_b)}; score both models on the same set"
        )
    # Subtracted prompt by prompt: how hard a prompt is for both models cancels.
    differences = mean_a - mean_b
    count = len(differences)
    observed = float(differences.mean())
    drawn, flipped = np.empty(draws), np.empty(draws)
    for block, (counts, signs) in signed(seed, count, draws):
        drawn[block] = counts @ differences / count
        # If A and B were alike, each prompt's difference would be as likely with the other sign.
        flipped[block] = signs @ differences / count
    # Over n - 1, since the mean is of the same prompts; one prompt alone shows no spread.
    standard_error = float(differences.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    differing = differing_prompts(differences[:, None])
    return comparison(observed, standard_error, drawn, flipped, differing, lower_is_better, level)


def differing_prompts(differences: Array) -> int | None:
    """At how many of N prompts two models differ, from their differences [N, K]; None where enough are alike to say so.

    A prompt at which they are alike cannot tell them apart: a permutation test is as weak as the others are few.
    """
    differing = int((np.abs(differences) > _NO_DIFFERENCE).any(axis=1).sum())
    return None if differing == 0 and len(differences) >= FEWEST_PROMPTS else differing


def comparison(
    observed: float,
    standard_error: float,
    drawn: Array,
    permuted: Array,
    differing: int | None,
    lower_is_better: bool,
    level: float = _LEVEL,
) -> Comparison:
    """What bootstrap draws of the difference and its values under permutation say about `observed`.

    `differing` is what `differing_prompts` says.
    """
    low, high = _percentiles(drawn, level)
    # what was observed is one permutation: without the +1 a p-value could be 0; the slack is for rounding
    as_extreme = int((np.abs(permuted) >= abs(observed) - 1e-12).sum())
    p_value = (as_extreme + 1) / (len(permuted) + 1)
    verdict: Verdict = "not distinguishable"
    if differing is not None and 2.0 ** (1 - differing) > 1 - level:
        verdict = "too few prompts"
    elif p_value <= 1 - level and (low > 0 or high < 0):
        verdict = "better" if (low > 0) != lower_is_better else "worse"
    return Comparison(observed, (low, high), standard_error, p_value, verdict)


Statistic = Callable[[Array], Array]
"""A statistic made of sums over prompts: [..., K] sums to [...] or [..., L] values, e.g. nats over tokens."""


def ratio(sums: Array) -> Array:
    """The statistic whose two columns are numerator and denominator."""
    # Sums first: a mean of the prompts' own ratios would give the tokens of short responses more weight.
    quotient: Array = sums[..., 0] / sums[..., 1]
    return quotient


def statistic_interval(
    columns: Array, statistic: Statistic, seed: int, draws: int = DRAWS, level: float = _LEVEL
) -> Array:
    """Percentile interval, low and high first, of a statistic of the column sums of `columns` [N, K].

    Prompts are drawn with replacement. A prompt is drawn with all its responses, so what they share does not
    make the interval too narrow.
    """
    # One seed is always drawn once, which takes no random number: the draws are those of a single row of scores.
    drawn = np.concatenate([statistic(counts @ columns) for _, (counts, _) in resampled(seed, len(columns), 1, draws)])
    interval: Array = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return interval


def compare_statistic(
    a: Array,
    b: Array,
    statistic: Statistic,
    seed: int,
    draws: int = DRAWS,
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
    drawn, permuted = np.empty(draws), np.empty(draws)
    for block, (counts, exchanged) in exchanging(seed, count, draws):
        drawn[block] = statistic(counts @ a) - statistic(counts @ b)
        # At an exchanged prompt A's sums lose its own columns and gain B's; the two sums together stay the same.
        moved = exchanged @ (b - a)
        permuted[block] = statistic(a.sum(axis=0) + moved) - statistic(b.sum(axis=0) - moved)
    observed = float(statistic(a.sum(axis=0)) - statistic(b.sum(axis=0)))
    # A ratio has no simple formula for its standard error: the spread of the draws stands for it.
    return comparison(
        observed, float(drawn.std(ddof=1)), drawn, permuted, differing_prompts(a - b), lower_is_better, level
    )
