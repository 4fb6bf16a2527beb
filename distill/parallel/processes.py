"""The processes that train one model together: who this one is, and what it says to the others.

One process is the ordinary case, in which nothing here touches torch.distributed and every function gives back
what it was given.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """One process among `count`; all of them call every method together, but `share` and `is_first`."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """The part of `items` that falls to this process: every `count`-th, so that sorted ones spread evenly."""
        return list(items[self.rank :: self.count])

    def joined(self, mine: Sequence[T]) -> list[T]:
        """The whole of which each process holds its `share`, in the order before sharing."""
        if self.count == 1:
            return list(mine)
        shares: list[Any] = [None] * self.count
        # Objects between processes of one run, over gloo: never from a file.
        dist.all_gather_object(shares, list(mine))
        whole = sum(map(len, shares))
        return [shares[place % self.count][place // self.count] for place in range(whole)]

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def any(self, mine: bool) -> bool:
        """Whether it is true in any of the processes."""
        return mine if self.count == 1 else bool(self.sum(torch.tensor(int(mine))))

    def first(self, mine: T) -> T:
        """What the first process holds."""
        if self.count == 1:
            return mine
        held = [mine]
        dist.broadcast_object_list(held)
        return held[0]

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes()


def device() -> torch.device:
    """Where this process computes: its own GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined_processes(patience: float | None = None) -> Iterator[Processes]:
    """The processes that a launcher has started, connected inside; `ALONE` where there was none.

    An exchange in which one waits for another for more than `patience` seconds fails; None takes torch's own limit.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE  # DeepSpeed in one process connects it to itself
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    # Tensors on the CPU go over gloo in any case; the trainer or DeepSpeed may have connected us already.
    started = not dist.is_initialized()
    if started:
        limit = None if patience is None else datetime.timedelta(seconds=patience)
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=limit)
    yield Processes(dist.get_rank(), dist.get_world_size())
    # Only after success: with an error here, the others may be waiting in the middle of something.
    if started and dist.is_initialized():
        dist.destroy_process_group()
