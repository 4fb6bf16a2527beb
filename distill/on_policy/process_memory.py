"""The memory of this process: its highest, as a whole and since a moment, and what it keeps of what it has freed."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from pathlib import Path

import torch

# Linux forgets the high-water mark of resident memory when 5 is written here (man 5 proc).
_FORGET = Path("/proc/self/clear_refs")
# `mallopt` of glibc's malloc.h: how much may lie free at the heap's top, and from what size on the heap is not used.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Bytes, for both.
_KEPT = 256 * 2**20


def keep_freed_memory() -> None:
    """Take tensors below 256 MiB from the heap, and leave up to 256 MiB at its top to this process.

    The same large tensors are wanted again some milliseconds later. By its own rules glibc returns much of them to the
    system at once, which then clears every page anew. No number changes; with another C library nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _KEPT)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)


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
