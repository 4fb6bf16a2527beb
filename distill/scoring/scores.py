"""Scores of one model on one evaluation set: means over examples for each seed, then over seeds.

The spread over seeds is the sample standard deviation (n − 1); one seed has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum, sqrt
from typing import Any

from distill.evaluation.answer_sheet import Answers
from distill.scoring import diversity
from distill.scoring.statistics import bootstrap_interval, interval_entry
from distill.text import rouge
from distill.text.words import PAPER, legibility

_DIGITS = 4


def mean_and_std(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation of one number per seed, rounded to 4 decimals; of one seed no deviation."""
    # fsum rounds once, at the end: the order of the values does not change the result.
    mean = fsum(values) / len(values)
    if len(values) < 2:
        return {"mean": round(mean, _DIGITS)}
    variance = fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return {"mean": round(mean, _DIGITS), "std": round(sqrt(variance), _DIGITS)}


def _grand_mean(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    # Every seed has as many examples, so the mean of all values is the mean of the seeds' means.
    values = [value for row in rows for value in row]
    return {"mean": round(fsum(values) / len(values), _DIGITS)}


def _over_seeds(values: Sequence[float | None]) -> dict[str, float] | None:
    # A seed whose answers are all too short for 4-grams has no value, which is not the same as 0.
    known = [value for value in values if value is not None]
    return mean_and_std(known) if known else None


def _unread(answers: Answers) -> dict[str, Any]:
    """How many references and answers Rouge-L cannot read, of how many; nothing where it reads all."""
    references = legibility(answers.references, answers.words)
    given = legibility([[text] for row in answers.texts for text in row if text.strip()], answers.words)
    if not references.unread and not given.unread:
        return {}
    return {
        "unread": {
            "references": references.unread,
            "of_references": references.texts,
            "answers": given.unread,
            "of_answers": given.texts,
        }
    }


def score_answers(
    answers: Answers, processes: int | None = None, advance: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """All scores of one cell of the results table, S seeds × N examples.

    Returns Rouge-L (mean, std over seeds, per seed), exact match with its interval, length and truncated share
    where the answers tell them, distinct-4 and repeated-4 where there are 4-grams, and `per_example` Rouge-L
    [S][N] in the order of `seeds` and `ids`. Shares and scores are ×100.
    """
    count = len(answers.ids)
    # Texts lie seed after seed, so the references repeat once for each seed.
    flat = rouge.score_all(
        [text for row in answers.texts for text in row],
        answers.references * len(answers.seeds),
        processes,
        advance,
        answers.words,
    )
    per_example = [flat[s * count : (s + 1) * count] for s in range(len(answers.seeds))]
    per_seed = [fsum(row) / count for row in per_example]
    matches = [
        [rouge.exact_match(text, own) for text, own in zip(row, answers.references, strict=True)]
        for row in answers.texts
    ]
    matched = _grand_mean(matches)
    optional = {
        "response_tokens": answers.tokens and _grand_mean(answers.tokens),
        "truncated": answers.truncated and _grand_mean([[100.0 * cut for cut in r] for r in answers.truncated]),
        "distinct_4": _over_seeds([diversity.distinct_ngrams(row, words=answers.words) for row in answers.texts]),
        "repeated_4": _over_seeds([diversity.repeated_ngrams(row, words=answers.words) for row in answers.texts]),
    }
    # Means and spreads come from unrounded scores: rounding each example first would shift them.
    return {
        "rouge_l": {
            **mean_and_std(per_seed),
            "per_seed": [round(value, _DIGITS) for value in per_seed],
            **({} if answers.words == PAPER else {"words": answers.words}),
            **_unread(answers),
        },
        "exact_match": interval_entry(matched["mean"], bootstrap_interval(matches, seed=0), count),
        **{name: value for name, value in optional.items() if value},
        "seeds": answers.seeds,
        "ids": answers.ids,
        "per_example": [[round(value, _DIGITS) for value in row] for row in per_example],
    }
