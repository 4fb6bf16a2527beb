"""Every model against every other on the same prompts: what a reader may choose as the reference.

MiniLLM's comparisons are drawn for each other model by itself; those of all other pairs share their draws, so that
twenty models cost little more than two. A pair is drawn once and read from both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from distill.scoring.draws import exchanging, signed
from distill.scoring.names import REFERENCE_METHOD
from distill.scoring.statistics import (
    DRAWS,
    Array,
    Comparison,
    Scores,
    Statistic,
    Verdict,
    compare,
    compare_statistic,
    comparison,
    comparison_entry,
    differing_prompts,
    score_matrix,
)

Entries = dict[str, dict[str, Any]]
"""Reference to model to the comparison of the reference with it, as results files hold it."""

Seeds = Callable[[str], int]
"""The seed of a comparison of MiniLLM with a model; that of all other pairs for the empty name."""

_TURNED: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}


def compare_scores(scores: Mapping[str, Scores], seeds: Seeds, lower_is_better: bool = False) -> Entries:
    """Mean scores, example by example. Raises: DataError where models have different numbers of prompts."""
    found = {
        (REFERENCE_METHOD, model): compare(scores[REFERENCE_METHOD], own, seeds(model), lower_is_better=lower_is_better)
        for model, own in scores.items()
        if REFERENCE_METHOD in scores and model != REFERENCE_METHOD
    }
    others = [model for model in scores if model != REFERENCE_METHOD]
    if len(others) > 1:
        # A prompt's mean over its seeds first, as in `compare`: noise within a prompt becomes spread between prompts.
        means = [score_matrix(scores[model], f"the scores of {model}").mean(axis=0) for model in others]
        columns = np.stack(means, axis=1)
        count = len(columns)
        # Both are linear in the scores: one model's draws less another's are the draws of their difference.
        drawn, flipped = np.empty((DRAWS, len(others))), np.empty((DRAWS, len(others)))
        for block, (counts, signs) in signed(seeds(""), count, DRAWS):
            drawn[block] = counts @ columns / count
            flipped[block] = signs @ columns / count
        for i, j in combinations(range(len(others)), 2):
            differences = columns[:, i] - columns[:, j]
            error = float(differences.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
            observed = float(differences.mean())
            found[others[i], others[j]] = comparison(
                observed,
                error,
                drawn[:, i] - drawn[:, j],
                flipped[:, i] - flipped[:, j],
                differing_prompts(differences[:, None]),
                lower_is_better,
            )
    return _both_ways(scores, found)


def compare_statistics(
    columns: Mapping[str, Array], statistic: Statistic, seeds: Seeds, lower_is_better: bool = False
) -> Entries:
    """A statistic of column sums [N, K] over the same N prompts. Raises: DataError where the prompts differ."""
    own = columns.get(REFERENCE_METHOD)
    found = {
        (REFERENCE_METHOD, model): compare_statistic(
            own, other, statistic, seeds(model), lower_is_better=lower_is_better
        )
        for model, other in columns.items()
        if own is not None and model != REFERENCE_METHOD
    }
    others = [model for model in columns if model != REFERENCE_METHOD]
    if len(others) > 1:
        sums = {model: columns[model].sum(axis=0) for model in others}
        drawn = {model: np.empty(DRAWS) for model in others}
        # A ratio is not linear: the sums that change sides are kept, and each pair takes the statistic after the move.
        moved = {model: np.empty((DRAWS, columns[model].shape[1])) for model in others}
        for block, (counts, exchanged) in exchanging(seeds(""), len(columns[others[0]]), DRAWS):
            for model in others:
                drawn[model][block] = statistic(counts @ columns[model])
                moved[model][block] = exchanged @ columns[model]
        for a, b in combinations(others, 2):
            # What A gains at exchanged prompts B loses; kept by model, this takes no product for each pair.
            difference, change = drawn[a] - drawn[b], moved[b] - moved[a]
            permuted = statistic(sums[a] + change) - statistic(sums[b] - change)
            observed = float(statistic(sums[a]) - statistic(sums[b]))
            found[a, b] = comparison(
                observed,
                float(difference.std(ddof=1)),
                difference,
                permuted,
                differing_prompts(columns[a] - columns[b]),
                lower_is_better,
            )
    return _both_ways(columns, found)


def _both_ways(models: Mapping[str, object], found: Mapping[tuple[str, str], Comparison]) -> Entries:
    """Every reference with every other model, in the models' order."""
    entries = {pair: comparison_entry(compared) for pair, compared in found.items()}
    # Read from the same draws, so that the two sides of a pair never disagree.
    entries |= {(b, a): comparison_entry(turned(compared)) for (a, b), compared in found.items()}
    return {a: {b: entries[a, b] for b in models if b != a} for a in models}


def turned(compared: Comparison) -> Comparison:
    """The same comparison as B minus A."""
    low, high = compared.interval
    # The standard error and the two-sided p-value are the same from either side.
    # 0 minus, since a difference of none would become -0.0.
    return replace(
        compared,
        difference=0 - compared.difference,
        interval=(0 - high, 0 - low),
        verdict=_TURNED.get(compared.verdict, compared.verdict),
    )


def joined(parts: Mapping[str, Entries], models: Collection[str]) -> Entries:
    """Comparisons of several quantities as reference to model to quantity to entry."""
    return {a: {b: {name: entries[a][b] for name, entries in parts.items()} for b in models if b != a} for a in models}
