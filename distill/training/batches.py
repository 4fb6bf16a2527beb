"""The rows of supervised training, in an order keyed by (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback

from distill.project.errors import TrainingError
from distill.project.randomness import permutation
from distill.text.examples import Example

_BATCHES_SORTED_TOGETHER = 8
FILLER = -1
"""Stands for no row, where several processes need equally many: nothing in it is learnt."""
# One token, so that a batch of fillers has a width; no response, so that no label is learnt.
_FILLER = Example(FILLER, [0], [], "")


class ExampleDataset(Dataset[Example]):
    """Prepared rows as torch sees them."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """`examples` in file order.

        Raises: TrainingError when no row has a response token to learn (trap 9).
        """
        if not any(example.response_ids for example in examples):
            raise TrainingError("no row has a response token to train on; check the prepared data's report.json")
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return _FILLER if index == FILLER else self.examples[index]


class KeyedSampler(Sampler[int]):
    """Rows in an order that (seed, epoch) fixes, batches of similar length together.

    Eight batches at a time are sorted by length, then the batches are shuffled: little padding, little bias.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, fill: bool = False) -> None:
        """`batch_size` is the global batch, so that the micro-batch does not change the order.

        `fill` makes the last batch whole with fillers: accelerate would fill it with rows of the first.
        """
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        # What is missing to the next multiple; 0 at one.
        self.fillers = -len(lengths) % batch_size if fill else 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) + self.fillers

    def __iter__(self) -> Iterator[int]:
        order = permutation(len(self.lengths), self.seed, "rows", self.epoch)
        # Sorted within a pool, not over all rows: a batch's company still changes with the epoch.
        pool = self.batch_size * _BATCHES_SORTED_TOGETHER
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=self.lengths.__getitem__)
            batches += [near[i : i + self.batch_size] for i in range(0, len(near), self.batch_size)]
        # A short last batch stays last, or every batch after it would be cut across two.
        tail = [b for b in batches if len(b) < self.batch_size]
        whole = [b for b in batches if len(b) == self.batch_size]
        # Or each pool would go from short to long, and the step would tell the length.
        shuffled = [whole[i] for i in permutation(len(whole), self.seed, "batches", self.epoch)]
        yield from (row for batch in shuffled + tail for row in batch)
        yield from [FILLER] * self.fillers


class EpochOrder(TrainerCallback):
    """Tells the sampler which epoch begins.

    The Trainer does too, through accelerate's loader; but where a run is taken up in the middle of an epoch and there
    are several processes, the sampler lies one wrapper deeper than accelerate looks, and stayed in the first epoch.
    """

    def __init__(self, sampler: KeyedSampler) -> None:
        """`sampler` is the one that the Trainer reads."""
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The steps done say which epoch it is, after a resume too."""
        # Rounded up: a short last batch is a step too.
        self.sampler.set_epoch(state.global_step // -(-len(self.sampler.lengths) // self.sampler.batch_size))
