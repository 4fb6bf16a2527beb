"""Stages side by side: how long they take together, and which two of them hold most memory at once."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

SLOTS = 2
"""Stages that `make repro` builds at once."""


@dataclass(frozen=True)
class Timed:
    """One stage."""

    name: str
    seconds: float
    """On free cores."""
    memory: float
    """Bytes at its peak."""
    needs: tuple[str, ...] = ()
    """Names of stages that come before it; those that are not there count as built."""


def makespan(stages: Sequence[Timed], slots: int) -> float:
    """Seconds until all are built, `slots` at a time, in the order given as far as needs allow."""
    names = {stage.name for stage in stages}
    waiting, done = list(stages), set[str]()
    running: list[tuple[float, str]] = []
    now = 0.0
    while waiting or running:
        ready = [stage for stage in waiting if done.issuperset(names.intersection(stage.needs))]
        for stage in ready[: slots - len(running)]:
            waiting.remove(stage)
            heapq.heappush(running, (now + stage.seconds, stage.name))
        if not running:
            break  # stages that need each other: nothing that a pipeline has
        now, ended = heapq.heappop(running)
        done.add(ended)
    return now


def heaviest(stages: Sequence[Timed], slots: int = SLOTS) -> tuple[Timed, ...]:
    """The stages with most memory that can run at once, at most `slots` of two; one where all need each other."""
    alone = max(stages, key=lambda stage: stage.memory)
    if slots < 2:
        return (alone,)
    before = _ancestors({stage.name: stage.needs for stage in stages})
    pairs = [
        pair
        for pair in combinations(stages, 2)
        if pair[0].name not in before[pair[1].name] and pair[1].name not in before[pair[0].name]
    ]
    return max(pairs, key=lambda pair: pair[0].memory + pair[1].memory, default=(alone,))


def _ancestors(needs: Mapping[str, tuple[str, ...]]) -> dict[str, set[str]]:
    """Everything that each stage needs, directly or not."""
    found: dict[str, set[str]] = {}

    def of(name: str) -> set[str]:
        if name not in found:
            found[name] = set()
            for above in needs.get(name, ()):
                found[name] |= {above} | of(above)
        return found[name]

    for name in needs:
        of(name)
    return found
