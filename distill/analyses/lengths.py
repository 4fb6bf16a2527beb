"""Response length, repetition, and Rouge-L by the length of the reference (paper Fig. 7 and 15).

A reference's length is that of the first one in tokens of the family's tokenizer: by it the paper's S-NI and UnNI
rows fall into their files. Needs the scores and the responses, no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.project.randomness import key
from distill.scoring.diversity import repeated_share
from distill.scoring.paired import compare_scores, joined
from distill.scoring.statistics import Array, bootstrap_interval, interval_entry, ratio, statistic_interval
from distill.text.words import PAPER, Words

# A range leaves its stop out, so 6 opens the second bucket; 2**31 is beyond any length.
BUCKETS = {"0-5": range(6), "6-10": range(6, 11), "11+": range(11, 2**31)}
"""Name to reference lengths in tokens; those of the paper."""

_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Answered:
    """What one model answered to one evaluation set, S seeds x N examples."""

    rouge_l: Array
    """[S, N]"""
    tokens: Array
    """Response lengths in tokens, [S, N]."""
    texts: Sequence[Sequence[str]]
    """[S][N]"""
    words: Words = PAPER
    """Words of Rouge-L and of repetition."""


def summarize(answered: Mapping[str, Answered], reference_tokens: Sequence[int], seed: int) -> dict[str, Any]:
    """One evaluation set: `references`, then `models` with intervals, and `against`: each against each other.

    `reference_tokens` [N] are the lengths of the first references. A bucket that no reference falls into is left out.
    """
    lengths = np.array(reference_tokens)
    inside = {name: (lengths >= bucket.start) & (lengths < bucket.stop) for name, bucket in BUCKETS.items()}
    members = {name: np.flatnonzero(each) for name, each in inside.items() if each.any()}
    repeats = {model: repetition(each.texts, each.words) for model, each in answered.items()}
    models: dict[str, Any] = {}
    for model, each in answered.items():
        # Keyed by the model: another model that joins leaves its intervals as they were.
        seeds = key(seed, "lengths interval", model)
        models[model] = {
            "rouge_l": {name: _mean_entry(each.rouge_l[:, places], seeds) for name, places in members.items()},
            "response_tokens": {**_mean_entry(each.tokens, seeds), **_quantiles(each.tokens)},
            # Where every answer is under four words no row is left to draw or to divide by.
            **({"repeated_4": _ratio_entry(repeats[model], seeds)} if len(repeats[model]) else {}),
        }
    compared = {
        name: compare_scores(
            {model: each.rouge_l[:, places].tolist() for model, each in answered.items()},
            lambda model: key(seed, "lengths comparison", model),
        )
        for name, places in members.items()
    }
    against = joined(compared, answered)
    counts = {name: len(places) for name, places in members.items()}
    # Responses count their end-of-sequence token, so their references do so too where lengths are compared.
    return {"references": {"examples": counts, **_quantiles(lengths + 1)}, "models": models, "against": against}


def repetition(texts: Sequence[Sequence[str]], words: Words = PAPER) -> Array:
    """By example: repeated shares of 4-grams x 100 summed over its answers, and how many answers have any, [n, 2].

    Examples none of whose answers has four words are left out.
    """
    columns = np.zeros((len(texts[0]), 2))
    for row in texts:
        for place, text in enumerate(row):
            share = repeated_share(text, words=words)
            if share is not None:
                # A count beside the sum: the prompts drawn decide how many answers have a share.
                columns[place] += (100 * share, 1)
    return columns[columns[:, 1] > 0]


def _mean_entry(values: Array, seed: int) -> dict[str, Any]:
    return interval_entry(float(values.mean()), bootstrap_interval(values.tolist(), seed), values.shape[1])


def _ratio_entry(columns: Array, seed: int) -> dict[str, Any]:
    low, high = statistic_interval(columns, ratio, seed)
    return interval_entry(float(ratio(columns.sum(axis=0))), (float(low), float(high)), len(columns))


def _quantiles(values: Array) -> dict[str, float]:
    return {f"p{100 * q:.0f}": float(np.quantile(values, q)) for q in _QUANTILES}
