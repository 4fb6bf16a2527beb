"""Random numbers keyed by (seed, purpose, step, example), never by rank, batch position or history.

So the machine, the batch size and a resumed run change no draw.
"""

from __future__ import annotations

import hashlib
import random


def key(seed: int, *parts: int | str) -> int:
    """A stable 63-bit integer for a seed and a purpose, e.g. `key(0, "rollout", step, example)`."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def rng(seed: int, *parts: int | str) -> random.Random:
    """A standard-library generator for one purpose alone."""
    return random.Random(key(seed, *parts))


def permutation(count: int, seed: int, *parts: int | str) -> list[int]:
    """The numbers 0 … count-1 in an order that depends on the key alone."""
    order = list(range(count))
    rng(seed, *parts).shuffle(order)
    return order
