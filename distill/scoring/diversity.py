"""How varied and how repetitive answers are, by their word n-grams (words: split at white space, or
words of any script where Rouge-L takes those).

The paper's Dist-4 pools the 4-grams of the whole test set. The share of repeats inside one answer is ours: it
shows the looping text that a student can fall into while its Rouge-L still looks fair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import fsum

from distill.text.words import PAPER, Words, tokenize


def _ngrams(text: str, n: int, words_of: Words) -> Iterator[tuple[str, ...]]:
    # White space parts no words of Chinese or Thai: there a text that loops would be one word.
    words = text.split() if words_of == PAPER else tokenize(text, words_of)
    return zip(*(words[i:] for i in range(n)), strict=False)  # stops at the last whole n-gram


def distinct_ngrams(texts: Sequence[str], n: int = 4, words: Words = PAPER) -> float | None:
    """Distinct over all word `n`-grams, pooled over `texts`, ×100 (paper Table 3); None if there are none."""
    # Pooled before the division: a phrase that comes back in another answer is a repeat here.
    grams = [gram for text in texts for gram in _ngrams(text, n, words)]
    return 100 * len(set(grams)) / len(grams) if grams else None


def repeated_share(text: str, n: int = 4, words: Words = PAPER) -> float | None:
    """Share of an answer's `n`-grams that occurred before in it, in [0, 1]; None if it is shorter than `n` words."""
    # Each distinct n-gram has one first occurrence; all others are repeats.
    grams = list(_ngrams(text, n, words))
    return 1 - len(set(grams)) / len(grams) if grams else None


def repeated_ngrams(texts: Sequence[str], n: int = 4, words: Words = PAPER) -> float | None:
    """Mean of `repeated_share` over the answers, ×100; answers too short for it have no say; None if all are."""
    # Mean of shares, not of counts: a long answer that loops weighs no more than a short one.
    shares = [share for text in texts if (share := repeated_share(text, n, words)) is not None]
    return 100 * fsum(shares) / len(shares) if shares else None
