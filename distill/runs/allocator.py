"""The C library told to keep what a run frees: the same large tensors are wanted again some milliseconds later.

By its own rules glibc returns much of it to the system at once, which then clears every page anew. No GPU's memory.
"""

from __future__ import annotations

import ctypes
import platform

# `mallopt` of malloc.h: what may lie free at the heap's top, and what is no more taken from the heap.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Bytes, for both.
_KEPT = 256 * 2**20


def keep_freed_memory() -> None:
    """Take tensors below 256 MiB from the heap, and leave up to 256 MiB at its top to this process.

    Changes no number, only where they lie. With another C library than glibc nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _KEPT)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)
