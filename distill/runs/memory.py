"""Going on after an out-of-memory error: a batch is halved and tried again, so that the same work is done in parts.

Only CUDA's errors can be caught. A process that takes too much of the CPU's memory is killed by the system.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def _alone(failed: bool) -> bool:
    return failed


def _nothing() -> None:
    return


class Fitting:
    """A batch size that halves itself until the work fits."""

    def __init__(self, size: int, name: str, agree: Callable[[bool], bool] = _alone) -> None:
        """`name` is what is halved, for the message; `agree` tells every process whether it failed in any."""
        self.size, self.name, self.agree = size, name, agree
        self.halvings = 0

    def run(self, attempt: Callable[[int], T], undo: Callable[[], None] = _nothing) -> T:
        """What `attempt(size)` gives at the first size that fits; `undo` takes back what a failed one has left.

        Raises: torch.OutOfMemoryError when one at a time is too much.
        """
        while True:
            found: T | None = None
            failed = False
            try:
                found = attempt(self.size)
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                failed = True
            # Only here, where the error no longer holds the tensors of the attempt.
            if not self.agree(failed):
                return found  # type: ignore[return-value]
            undo()
            release()
            self.halve()

    def halve(self) -> None:
        """Half of it from now on."""
        self.size, self.halvings = max(1, self.size // 2), self.halvings + 1
        print(f"out of memory: {self.name} is {self.size} from here on", file=sys.stderr, flush=True)


def release() -> None:
    """Give back what failed work has left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
