"""Calibration by label words (paper Table 2): how right a model is, and whether it is as sure as it is right.

A prompt's answer is one of K words. The model's prediction is the most probable of them as the beginning of its
response; its confidence is that word's probability among the K. The paper states neither the bins of its
expected calibration error nor whether it normalises over the words, so its numbers are no target; `word_mass`,
what the words had before normalising, says whether the model took the question as one of them at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.project.randomness import key
from distill.scoring.names import REFERENCE_METHOD
from distill.scoring.statistics import (
    Array,
    compare,
    compare_statistic,
    comparison_entry,
    interval_entry,
    statistic_interval,
)

BINS = 10
_DIGITS = 4


@dataclass(frozen=True)
class Predictions:
    """What one model makes of N labelled prompts."""

    correct: Array
    """1 where the most probable word is the answer, [N]."""
    confidence: Array
    """Probability of that word among the label words, [N]."""
    word_mass: Array
    """Probability of all label words together, [N]."""


def predict(logprobs: Array, answers: Sequence[int]) -> Predictions:
    """From log q of each word [N, K] and the index of each right one."""
    probabilities = np.exp(logprobs)
    mass = probabilities.sum(axis=1)
    # Shifted first, so that words of tiny probability still have a share.
    shares = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    chosen = shares.argmax(axis=1)
    return Predictions((chosen == np.array(answers)).astype(np.float64), shares.max(axis=1), mass)


def bins_of(confidence: Array) -> NDArray[np.int64]:
    """The bin of each confidence: `BINS` of equal width over [0, 1], the upper edge within, [N]."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def gaps(predictions: Predictions) -> Array:
    """Correctness minus confidence, in the column of its bin, then a column of ones to count by, [N, BINS + 1]."""
    columns = np.zeros((len(predictions.correct), BINS + 1))
    rows = np.arange(len(columns))
    columns[rows, bins_of(predictions.confidence)] = predictions.correct - predictions.confidence
    columns[:, BINS] = 1
    return columns


def calibration_error(sums: Array) -> Array:
    """Expected calibration error x 100 from the column sums of `gaps`, [..., BINS + 1] to [...]."""
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
    `against`: MiniLLM against each other on the same prompts.
    """
    models = {model: _one(each, key(seed, "calibration interval", model)) for model, each in predictions.items()}
    against: dict[str, Any] = {}
    for model, each in predictions.items():
        if REFERENCE_METHOD in predictions and model != REFERENCE_METHOD:
            own, seeds = predictions[REFERENCE_METHOD], key(seed, "calibration comparison", model)
            against[model] = {
                "accuracy": comparison_entry(compare(_scores(own), _scores(each), seeds)),
                "ece": comparison_entry(
                    compare_statistic(gaps(own), gaps(each), calibration_error, seeds, lower_is_better=True)
                ),
            }
    return {"models": models, "against": against}


def _scores(predictions: Predictions) -> list[list[float]]:
    return [(100 * predictions.correct).tolist()]


def _one(predictions: Predictions, seed: int) -> dict[str, Any]:
    columns = gaps(predictions)
    low, high = statistic_interval(columns, calibration_error, seed)
    return {
        "accuracy": _mean_entry(predictions.correct, seed),
        "ece": interval_entry(float(calibration_error(columns.sum(axis=0))), (float(low), float(high))),
        "word_mass": _mean_entry(predictions.word_mass, seed),
        "reliability": reliability(predictions),
    }


def _mean_entry(values: Array, seed: int) -> dict[str, Any]:
    low, high = statistic_interval(100 * values[:, None], lambda sums: sums[..., 0] / len(values), seed)
    return interval_entry(100 * float(values.mean()), (float(low), float(high)))
