"""The random draws of bootstraps and permutation tests, in blocks.

They follow from the seed and the numbers of rows alone. Many intervals of one model share them, and drawing takes
longer than all else: those of the last few keys are kept, in few bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

# Draws made at once: before they shrink to bytes they take eight times the memory.
_A_BLOCK = 500
_KEPT_BYTES = 2**28

_Key = tuple[str, int, int, int, int]
_Drawn = tuple[NDArray[np.generic], NDArray[np.generic]]
_Draw = Callable[[np.random.Generator, int], _Drawn]
Floats = NDArray[np.float64]


def resampled(seed: int, rows: int, others: int, draws: int) -> Iterator[tuple[slice, tuple[Floats, Floats]]]:
    """How often each of `rows` rows is drawn in each sample of that size, and each of `others`, independently.

    Yields the place among the draws, then [draws, rows] and [draws, others] of that block.
    """

    def draw(generator: np.random.Generator, size: int) -> _Drawn:
        return _counts(generator, rows, size), _counts(generator, others, size)

    for block, (by_row, by_other) in _blocks(("resampled", seed, rows, others, draws), draw):
        # Cast once for all products of a block, each of which would cast the bytes again.
        yield block, (by_row.astype(np.float64), by_other.astype(np.float64))


def signed(seed: int, rows: int, draws: int) -> Iterator[tuple[slice, tuple[Floats, NDArray[np.int8]]]]:
    """As `resampled`, then a sign for each row: 1 or -1, [draws, rows]."""

    def draw(generator: np.random.Generator, size: int) -> _Drawn:
        # Counts before signs: the order of the two is part of what a seed yields.
        counts = _counts(generator, rows, size)
        return counts, 2 * generator.integers(0, 2, size=(size, rows), dtype=np.int8) - 1

    for block, (counts, signs) in _blocks(("signed", seed, rows, 0, draws), draw):
        yield block, (counts.astype(np.float64), signs.astype(np.int8, copy=False))


def exchanging(seed: int, rows: int, draws: int) -> Iterator[tuple[slice, tuple[Floats, Floats]]]:
    """As `resampled`, then whether each row is exchanged: 1 or 0, [draws, rows]."""

    def draw(generator: np.random.Generator, size: int) -> _Drawn:
        counts = _counts(generator, rows, size)
        return counts, generator.integers(0, 2, size=(size, rows)).astype(np.int8)

    for block, (counts, exchanged) in _blocks(("exchanging", seed, rows, 0, draws), draw):
        yield block, (counts.astype(np.float64), exchanged.astype(np.float64))


def _counts(generator: np.random.Generator, rows: int, size: int) -> NDArray[np.generic]:
    # Drawing with replacement, each row as likely as another, makes the counts multinomial.
    counts = generator.multinomial(rows, np.full(rows, 1 / rows), size=size)
    # One byte, as a rule: rows are drawn once on average.
    return counts.astype(np.min_scalar_type(counts.max()))


class _Kept:
    """The draws of the last keys, within a limit of bytes."""

    def __init__(self) -> None:
        self.blocks: OrderedDict[_Key, list[_Drawn]] = OrderedDict()
        self.bytes = 0

    def add(self, name: _Key, blocks: list[_Drawn]) -> None:
        """Keep the blocks; the keys used longest ago go."""
        self.blocks[name] = blocks
        self.bytes += _size(blocks)
        # Even the newest goes where it alone is over the limit; its caller still holds it.
        while self.bytes > _KEPT_BYTES:
            self.bytes -= _size(self.blocks.popitem(last=False)[1])

    def find(self, name: _Key) -> list[_Drawn] | None:
        """The blocks of a key, if they are still there."""
        if name in self.blocks:
            self.blocks.move_to_end(name)
        return self.blocks.get(name)


_KEPT = _Kept()


def _size(blocks: list[_Drawn]) -> int:
    return sum(array.nbytes for block in blocks for array in block)


def _blocks(name: _Key, draw: _Draw) -> Iterator[tuple[slice, _Drawn]]:
    """The draws of a key: kind, seed, rows, others, draws."""
    _, seed, _, _, draws = name
    blocks = _KEPT.find(name)
    if blocks is None:
        # One generator goes through the blocks in turn: another block size may yield other draws.
        generator = np.random.default_rng(seed)
        blocks = [draw(generator, min(_A_BLOCK, draws - start)) for start in range(0, draws, _A_BLOCK)]
        _KEPT.add(name, blocks)
    for number, block in enumerate(blocks):
        start = number * _A_BLOCK
        yield slice(start, start + len(block[0])), block
