"""What one model makes of prompts whose answer is one of K words (paper Table 2), prompt by prompt.

The prediction is the most probable of the words as the beginning of the response; its confidence is that word's
probability among the K. What the words had together before that normalising says whether the model took the
question as one of them at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.project.files import read_json, write_json


@dataclass(frozen=True)
class Predictions:
    """What one model makes of N labelled prompts."""

    correct: NDArray[np.float64]
    """1 where the most probable word is the answer, [N]."""
    confidence: NDArray[np.float64]
    """Probability of that word among the label words, [N]."""
    word_mass: NDArray[np.float64]
    """Probability of all label words together, [N]."""
    prompts_too_long: int = 0
    """Prompts over the limit, which are left out."""


def predict(logprobs: NDArray[np.float64], answers: Sequence[int], prompts_too_long: int = 0) -> Predictions:
    """From log q of each word [N, K] and the index of each right one."""
    # Without the shift below, which would cancel in a share but not in the mass.
    probabilities = np.exp(logprobs)
    mass = probabilities.sum(axis=1)
    # Shifted first, so that words of tiny probability still have a share.
    shares = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    # Of equally probable words the first one wins, by the same rule for every model.
    chosen = shares.argmax(axis=1)
    correct = (chosen == np.array(answers)).astype(np.float64)
    return Predictions(correct, shares.max(axis=1), mass, prompts_too_long)


def write_predictions(path: Path, predictions: Mapping[str, Predictions]) -> None:
    """Write one model's predictions by labelled set, each number with all its digits."""
    write_json(
        path,
        {
            name: {
                "prompts_too_long": each.prompts_too_long,
                "correct": each.correct.astype(int).tolist(),
                "confidence": each.confidence.tolist(),
                "word_mass": each.word_mass.tolist(),
            }
            for name, each in predictions.items()
        },
    )


def read_predictions(path: Path) -> dict[str, Predictions]:
    """One model's predictions by labelled set. Raises: DataError when there is no such file."""
    return {
        name: Predictions(
            # Whole numbers in the file; float64 here, since a confidence is subtracted from them.
            correct=np.array(each["correct"], dtype=np.float64),
            confidence=np.array(each["confidence"], dtype=np.float64),
            word_mass=np.array(each["word_mass"], dtype=np.float64),
            prompts_too_long=each["prompts_too_long"],
        )
        for name, each in read_json(path).items()
    }
