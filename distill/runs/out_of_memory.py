"""Recovery from an out-of-memory error: halve the batch, and do the same work in parts.

CUDA refuses what does not fit. On a CPU memory is refused where a limit says so (`ulimit -v`, or a system that does not
overcommit); otherwise the system kills the process, and there is nothing to catch.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from distill.project.foreign import is_out_of_memory

T = TypeVar("T")


def _alone(failed: bool) -> bool:
    return failed


def _nothing() -> None:
    return


class Fitting:
    """A batch size that halves itself until the work fits."""

    def __init__(self, size: int, name: str, agree: Callable[[bool], bool] = _alone) -> None:
        """`name` is for the message; `agree` tells every process whether any of them failed."""
        self.size, self.name, self.agree = size, name, agree
        self.halvings = 0

    def run(self, attempt: Callable[[int], T], undo: Callable[[], None] = _nothing) -> T:
        """Return `attempt(size)` for the first size that fits; `undo` cleans up after a failed attempt.

        Raises: the attempt's own error, if it is not about memory or the size is already 1.
        """
        while True:
            found: T | None = None
            failed = False
            try:
                found = attempt(self.size)
            except (RuntimeError, MemoryError) as error:
                if self.size == 1 or not is_out_of_memory(error):
                    raise
                failed = True
            # Only here, where the error no longer holds the tensors of the attempt.
            if not self.agree(failed):
                return found  # type: ignore[return-value]
            undo()
            release()
            self.halve()

    def halve(self) -> None:
        """Halve the size from now on, and say so."""
        self.size, self.halvings = max(1, self.size // 2), self.halvings + 1
        print(f"out of memory: {self.name} is {self.size} from here on", file=sys.stderr, flush=True)


def release() -> None:
    """Free the memory of failed work."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
