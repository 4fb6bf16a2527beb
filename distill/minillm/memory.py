"""The highest memory of this process, as a whole and since a moment."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

# Linux forgets the high-water mark of resident memory when 5 is written here (man 5 proc).
_FORGET = Path("/proc/self/clear_refs")


class PeakMemory:
    """High-water marks in MiB. Elsewhere than on Linux, resident memory has only the mark of the whole process."""

    def __init__(self) -> None:
        """Nothing is forgotten before the first `restart`."""
        self._forgotten: dict[str, float] = {}

    def restart(self) -> None:
        """Forget the marks, so that `peaks` tells of what follows."""
        self._forgotten = self.highest()
        if os.access(_FORGET, os.W_OK):
            _FORGET.write_text("5", encoding="ascii")
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, float]:
        """Marks since the last restart: `peak_rss_mib`, resident memory, and where a GPU is in use `peak_cuda_mib`."""
        found = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        if torch.cuda.is_initialized():
            found["peak_cuda_mib"] = torch.cuda.max_memory_allocated() / 2**20
        return found

    def highest(self) -> dict[str, float]:
        """The same marks over the whole life of the process."""
        return {name: round(max(mark, self._forgotten.get(name, 0.0)), 1) for name, mark in self.peaks().items()}
