"""The audit of prepared data: rows read, left out and kept, duplicates, token statistics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.data.rows import Row, Split
from distill.text.words import Legibility, Words, legibility

_LISTED = 100
"""Row numbers listed for each reason; the counts are always whole."""


@dataclass(frozen=True)
class TokenCounts:
    """Statistics over the lengths of token sequences; p95 is the smallest length that 95 % do not exceed."""

    mean: float
    p95: int
    max: int


def count_tokens(sequences: Sequence[Sequence[int]]) -> TokenCounts:
    """Statistics of the lengths of at least one sequence."""
    lengths = sorted(len(ids) for ids in sequences)
    return TokenCounts(round(sum(lengths) / len(lengths), 2), lengths[math.ceil(0.95 * len(lengths)) - 1], lengths[-1])


def audit_split(split: Split) -> dict[str, Any]:
    """Counts of a source's rows: `read` = `kept` + all counts under `left_out`; and turns in no row."""
    malformed = {"count": len(split.malformed), "rows": [row._asdict() for row in split.malformed[:_LISTED]]}
    dropped = {reason: list_rows(rows) for reason, rows in split.dropped.items()}
    return {
        "source": split.name,
        "read": split.read,
        "left_out": {"malformed": malformed, **dropped},
        "kept": len(split.rows),
        **({"unused": split.unused} if split.unused else {}),
    }


def list_rows(numbers: Sequence[int]) -> dict[str, Any]:
    """How many rows, and the numbers of the first."""
    return {"count": len(numbers), "rows": list(numbers[:_LISTED])}


def legible(split: Split, words: Words) -> Legibility:
    """How much of a split's references Rouge-L can read."""
    return legibility([row.references for row in split.rows], words)


def audit_legibility(found: Legibility) -> dict[str, Any]:
    """References that Rouge-L cannot read, and the share of letters that it passes over; nothing where it reads all."""
    if not found.unread and not found.passed_over:
        return {}
    return {"rouge_cannot_read": {"references": found.unread, "letters": round(found.passed_over, 4)}}


def recorded_legibility(split: Mapping[str, Any]) -> Legibility:
    """What `audit_legibility` wrote into the audit of a split."""
    found = split.get("rouge_cannot_read", {"references": 0, "letters": 0.0})
    return Legibility(split["kept"], found["references"], found["letters"])


def find_duplicates(splits: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Rows that occur again in their own split, and rows that stand in an earlier split too.

    White space makes no difference. `rows` counts rows with the same instruction, input and first reference;
    `prompts` counts those with the same instruction and input, whatever the answer. Nothing is removed.
    """
    names = list(splits)
    within = {
        name: {
            "rows": _count_repeats([_row_key(row) for row in rows]),
            "prompts": _count_repeats([prompt_key(row) for row in rows]),
        }
        for name, rows in splits.items()
    }
    across = {
        f"{first}/{second}": {
            "rows": _find_shared(splits[first], splits[second], _row_key),
            "prompts": _find_shared(splits[first], splits[second], prompt_key),
        }
        for i, first in enumerate(names)
        for second in names[i + 1 :]
    }
    return {"within": within, "across": across}


def prompt_key(row: Row) -> tuple[str, ...]:
    """What is asked, the same for prompts that differ in white space alone."""
    return " ".join(row.instruction.split()), " ".join(row.input.split())


def _row_key(row: Row) -> tuple[str, ...]:
    return *prompt_key(row), " ".join(row.references[0].split())


def _count_repeats(keys: Sequence[tuple[str, ...]]) -> int:
    return sum(count - 1 for count in Counter(keys).values())


def _find_shared(first: Sequence[Row], second: Sequence[Row], key: Callable[[Row], tuple[str, ...]]) -> dict[str, Any]:
    """Rows of `second` whose key occurs in `first`, as [number in first, number in second]."""
    places: dict[tuple[str, ...], int] = {}
    for row in first:
        places.setdefault(key(row), row.number)
    pairs = [[places[key(row)], row.number] for row in second if key(row) in places]
    return {"count": len(pairs), "pairs": pairs[:_LISTED]}
