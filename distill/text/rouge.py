"""Rouge-L and exact match as the paper counts them: google `rouge_score`, F-measure, stemmer on, ×100.

The numbers equal those of `rouge_score.rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)` to the last
bit; stems are remembered and the longest common subsequence comes from rapidfuzz, which makes it 10 to 50
times faster. Words in other scripts than a-z and 0-9 count for nothing, as in `rouge_score`, unless other words are
asked for (`distill/text/words.py`).
Training imports it for validation: it is light and needs no torch.
"""

from __future__ import annotations

import multiprocessing
import os
import string
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from math import fsum

from rapidfuzz.distance import LCSseq

from distill.project.errors import DataError
from distill.text.words import PAPER, Words, tokenize

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHARACTERS_FOR_PROCESSES = 150_000_000  # some 15 s of one core; below it, starting processes gains nothing
_EXAMPLES_A_CHUNK = 1_000


def _f_measure(answer: Sequence[str], reference: Sequence[str]) -> float:
    """F-measure in [0, 1] of the longest common subsequence of two token lists; 0 when one is empty."""
    common = LCSseq.similarity(reference, answer) if answer and reference else 0
    # No common word: precision and recall are 0, and their harmonic mean would be 0/0.
    if not common:
        return 0.0
    # in rouge_score's order of operations: another order differs in the last bit
    precision, recall = common / len(answer), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def score(answer: str, references: Sequence[str], words: Words = PAPER) -> float:
    """Rouge-L of one answer in [0, 100]: the best F-measure over its references.

    Raises: DataError when there is no reference.
    """
    if not references:
        raise DataError("an answer has no reference to be scored against; give at least one")
    tokens = tokenize(answer, words)
    # The best F-measure, not the best precision with the best recall: these may come from two references.
    return 100 * max(_f_measure(tokens, tokenize(reference, words)) for reference in references)


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation, runs of white space as one space: what exact match compares."""
    return " ".join(text.lower().translate(_DROP_PUNCTUATION).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """100.0 when the normalised answer equals one of the normalised references, else 0.0."""
    normalized = normalize(answer)
    return 100.0 if any(normalized == normalize(reference) for reference in references) else 0.0


def _score_chunk(answers: Sequence[str], references: Sequence[Sequence[str]], words: Words) -> list[float]:
    return [score(answer, own, words) for answer, own in zip(answers, references, strict=True)]


def score_all(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    processes: int | None = None,
    advance: Callable[[int], None] | None = None,
    words: Words = PAPER,
) -> list[float]:
    """Rouge-L of each answer against its own references, in order.

    `processes`: how many to use; by default one, or one for each core when there is much text.
    `advance` is told how many examples are newly done, e.g. `Progress.advance`.
    Raises: DataError when the two differ in length.
    """
    if len(answers) != len(references):
        raise DataError(
            f"{len(answers)} answers against {len(references)} lists of references; give as many of one as of the other"
        )
    if processes is None:
        characters = sum(map(len, answers)) + sum(len(text) for own in references for text in own)
        processes = len(os.sched_getaffinity(0)) if characters > _CHARACTERS_FOR_PROCESSES else 1
    starts = range(0, len(answers), _EXAMPLES_A_CHUNK)
    chunks = [(answers[i : i + _EXAMPLES_A_CHUNK], references[i : i + _EXAMPLES_A_CHUNK]) for i in starts]
    report = advance or (lambda count: None)
    if processes == 1 or len(chunks) < 2:
        scores: list[float] = []
        for chunk in chunks:
            scores += _score_chunk(*chunk, words)
            report(len(chunk[0]))
        return scores
    # spawn, not fork: the caller may hold threads (torch, tqdm), and a forked thread pool can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(chunks)), mp_context=context) as pool:
        futures = [pool.submit(_score_chunk, *chunk, words) for chunk in chunks]
        sizes = {future: len(chunk[0]) for future, chunk in zip(futures, chunks, strict=True)}
        for future in as_completed(futures):
            future.result()  # a worker's fault ends the wait at once
            report(sizes[future])
        # In the order of the answers, whichever chunk was done first.
        return [value for future in futures for value in future.result()]


def mean_rouge_l(answers: Sequence[str], references: Sequence[Sequence[str]], words: Words = PAPER) -> float:
    """Mean Rouge-L in [0, 100] of answers against their own references (validation uses this).

    Raises: DataError when there is nothing to score, or the two differ in length.
    """
    if not answers:
        raise DataError("there is no answer to score; give at least one")
    # The exact sum, rounded once: the mean does not depend on the order of the answers.
    return fsum(score_all(answers, references, processes=1, words=words)) / len(answers)
