"""Calibration by label words (paper Table 2): how right a model is, and whether it is as sure as it is right.

The paper states neither the bins of its expected calibration error nor whether it normalises over the words, so its
numbers are no target. What the models were asked stands in `distill/evaluation/predictions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.evaluation.predictions import Predictions
from distill.project.randomness import key
from distill.scoring.directions import lower_is_better
from distill.scoring.paired import compare_scores, compare_statistics, joined
from distill.scoring.statistics import Array, interval_entry, statistic_interval

BINS = 10
_DIGITS = 4


def bins_of(confidence: Array) -> NDArray[np.int64]:
    """The bin of each confidence: `BINS` of equal width over [0, 1], the upper edge within, [N]."""
    # ceil - 1 leaves an edge to the bin below it; only a confidence of 0 would fall below the first bin.
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def gaps(predictions: Predictions) -> Array:
    """Correctness minus confidence, in the column of its bin, then a column of ones to count by, [N, BINS + 1]."""
    columns = np.zeros((len(predictions.correct), BINS + 1))
    rows = np.arange(len(columns))
    # Summed over a bin, gaps are its count times (accuracy - mean confidence): sums are all that a draw needs.
    columns[rows, bins_of(predictions.confidence)] = predictions.correct - predictions.confidence
    columns[:, BINS] = 1
    return columns


def calibration_error(sums: Array) -> Array:
    """Expected calibration error x 100 from the column sums of `gaps`, [..., BINS + 1] to [...]."""
    # A bin's weight is its count over N; the count cancels against the bin's means and leaves |sum of gaps| / N.
    error: Array = 100 * np.abs(sums[..., :BINS]).sum(axis=-1) / sums[..., BINS]
    return error


def reliability(predictions: Predictions) -> list[dict[str, float]]:
    """The reliability diagram: mean confidence, share of right answers and count of each bin that is not empty."""
    bins = bins_of(predictions.confidence)
    return [
        {
            "confidence": round(float(predictions.confidence[bins == b].mean()), _DIGITS),
            "accuracy": round(float(predictions.correct[bins == b].mean()), _DIGITS),
            "count": int((bins == b).sum()),
        }
        for b in range(BINS)
        if (bins == b).any()
    ]


def summarize(predictions: Mapping[str, Predictions], seed: int) -> dict[str, Any]:
    """`models`: accuracy, ECE and word mass (x 100, with 95 % intervals over prompts) and the reliability diagram;
    `against`: each model against each other on the same prompts.
    """
    # A key for each model: its interval stays the same when another model joins or leaves.
    models = {model: _one(each, key(seed, "calibration interval", model)) for model, each in predictions.items()}

    def seeds(model: str) -> int:
        return key(seed, "calibration comparison", model)

    compared = {
        "accuracy": compare_scores({model: _scores(each) for model, each in predictions.items()}, seeds),
        "ece": compare_statistics(
            {model: gaps(each) for model, each in predictions.items()}, calibration_error, seeds, lower_is_better("ece")
        ),
    }
    return {"models": models, "against": joined(compared, predictions)}


def _scores(predictions: Predictions) -> list[list[float]]:
    # One row of scores: nothing is sampled here, so there are no seeds to average over.
    return [(100 * predictions.correct).tolist()]


def _one(predictions: Predictions, seed: int) -> dict[str, Any]:
    columns = gaps(predictions)
    low, high = statistic_interval(columns, calibration_error, seed)
    return {
        "accuracy": _mean_entry(predictions.correct, seed),
        "ece": interval_entry(float(calibration_error(columns.sum(axis=0))), (float(low), float(high)), len(columns)),
        "word_mass": _mean_entry(predictions.word_mass, seed),
        "reliability": reliability(predictions),
    }


def _mean_entry(values: Array, seed: int) -> dict[str, Any]:
    # Every draw holds N prompts, whichever they are, so the divisor is fixed.
    low, high = statistic_interval(100 * values[:, None], lambda sums: sums[..., 0] / len(values), seed)
    return interval_entry(100 * float(values.mean()), (float(low), float(high)), len(values))
