"""Splits of rows that are drawn over different prompts: no prompt stands on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from distill.data.audit import prompt_key
from distill.data.rows import Row
from distill.project.randomness import permutation


def draw_prompts(rows: Sequence[Row], count: int, purpose: str) -> list[int]:
    """The places of about `count` rows, drawn from all over `rows` and the same each time; ascending.

    All rows of a prompt are drawn together: prompts of more rows than are still wanted are passed over, or the one of
    fewest rows is taken if that leaves nothing. Empty when the rest would be.
    """
    by_prompt: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows):
        by_prompt.setdefault(prompt_key(row), []).append(place)
    if count >= len(rows) or len(by_prompt) < 2:
        return []
    chosen: set[int] = set()
    for place in permutation(len(rows), 0, purpose):
        if len(chosen) == count:
            break
        group = by_prompt[prompt_key(rows[place])]
        if place not in chosen and len(chosen) + len(group) <= count:
            chosen.update(group)
    return sorted(chosen) or min(by_prompt.values(), key=len)


def count_prompts(rows: Sequence[Row]) -> int:
    """The number of different prompts."""
    return len({prompt_key(row) for row in rows})


def shared_prompts(first: Sequence[Row], second: Sequence[Row]) -> int:
    """The number of rows of `second` whose prompt stands in `first` too."""
    there = {prompt_key(row) for row in first}
    return sum(prompt_key(row) in there for row in second)
