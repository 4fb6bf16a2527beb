"""The order of work: the next stage to start, its devices, and the stages that a failure stops. No Prefect."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tasks.graph import Graph, Stage
from tasks.leases import Lease, Slots


class Outcome(StrEnum):
    """The ending of a stage, by the name that the UI shows."""

    BUILT = "Built"
    RESTORED = "Restored"
    UP_TO_DATE = "UpToDate"
    FAILED = "Failed"
    NOT_READY = "NotReady"
    """A stage above it failed."""
    CANCELLED = "Cancelled"


MOVED = frozenset({Outcome.BUILT, Outcome.RESTORED})
"""Outcomes after which DVC must check the stages below."""
BROKEN = frozenset({Outcome.FAILED, Outcome.NOT_READY, Outcome.CANCELLED})
"""Outcomes after which the stages below cannot run."""


@dataclass(frozen=True)
class Node:
    """One stage to bring up to date in one clone."""

    key: str
    """Unique in a schedule: the stage's name, with the clone's in a sweep."""
    stage: Stage
    clone: str
    """The clone's folder."""
    after: tuple[str, ...]
    """Keys of the nodes that come first."""
    changed: bool
    """Whether `dvc status` called it changed."""


@dataclass(frozen=True)
class Ending:
    """The ending of one node, and its cost."""

    outcome: Outcome
    message: str = ""
    seconds: float = 0.0
    devices: int = 0


Finish = Callable[[Outcome, str], None]
"""Called once, from any thread, when a started node has ended."""


def nodes_of(graph: Graph, clone: str, prefix: str = "") -> list[Node]:
    """A graph's stages as the nodes of a schedule; `prefix` makes their keys unique in a sweep."""
    return [
        Node(
            key=prefix + stage.name,
            stage=stage,
            clone=clone,
            after=tuple(prefix + name for name in stage.upstream),
            changed=stage.name in graph.changed,
        )
        for stage in graph.stages.values()
    ]


def run_nodes(
    nodes: Iterable[Node],
    slots: Slots,
    start: Callable[[Node, Lease, Finish], None],
    settle: Callable[[Node, Outcome], None],
    stopped: Callable[[], bool],
    claim: Callable[[Node], bool] = lambda _: True,
    drop: Callable[[Node, Node], None] = lambda *_: None,
) -> dict[str, Ending]:
    """Bring every node up to date, as many at once as `slots` allow; return the endings by key, in their order.

    `nodes` come in dependency order. `start` begins a node and returns at once; `settle` takes a node
    that needs no process: it is up to date, a stage above it failed, or the run was stopped. `claim` may
    refuse a node for now, when another machine builds it. `drop` asks a running node to end, for a gate that failed:
    no goal that it leads to can be reached any more.
    Once `stopped()`, nothing new starts.
    """
    waiting = {node.key: node for node in nodes}
    rank = _ranks(waiting)
    every = dict(waiting)
    endings: dict[str, Ending] = {}
    running: dict[str, tuple[Lease, float]] = {}
    finished: queue.SimpleQueue[tuple[str, Outcome, str]] = queue.SimpleQueue()

    while waiting or running:
        for node in list(waiting.values()):  # in dependency order, so that one pass settles whole chains
            if outcome := _settled(node, endings, stopped()):
                del waiting[node.key]
                endings[node.key] = Ending(outcome)
                settle(node, outcome)
        ready = [node for node in waiting.values() if all(key in endings for key in node.after)]
        first_for_devices = True
        for node in sorted(ready, key=lambda node: rank[node.key]):
            on_devices = bool(node.stage.gpus and slots.devices)
            if on_devices and not first_for_devices:
                continue  # first come, first served: otherwise a stage that needs all devices would never get them
            lease = slots.lease(node.stage.gpus)
            first_for_devices &= not (on_devices and lease is None)
            if lease is None:
                continue
            if not claim(node):
                slots.release(lease)
                continue
            del waiting[node.key]
            running[node.key] = (lease, time.monotonic())
            start(node, lease, lambda outcome, message, key=node.key: finished.put((key, outcome, message)))  # type: ignore[misc]
        if running or waiting:
            for key, outcome, message in _drain(finished, seconds=0.5):
                lease, began = running.pop(key)
                slots.release(lease)
                endings[key] = Ending(outcome, message, time.monotonic() - began, len(lease.devices))
                if outcome is Outcome.FAILED and every[key].stage.gate:
                    for lost in _without_a_goal(every, key):
                        if lost in running:
                            drop(every[lost], every[key])
                        elif waiting.pop(lost, None) is not None:
                            endings[lost] = Ending(Outcome.NOT_READY)
                            settle(every[lost], Outcome.NOT_READY)
    return endings


def _without_a_goal(nodes: Mapping[str, Node], failed: str) -> list[str]:
    """The nodes that do not need `failed` but all of whose goals do, in dependency order."""
    lost, goals = {failed}, {key: {key} if node.stage.goal else set() for key, node in nodes.items()}
    for key, node in nodes.items():
        if lost.intersection(node.after):
            lost.add(key)
    for node in reversed(list(nodes.values())):
        for key in node.after:
            goals[key] |= goals[node.key]
    return [key for key in nodes if key not in lost and goals[key] and goals[key] <= lost]


def _settled(node: Node, endings: Mapping[str, Ending], stopped: bool) -> Outcome | None:
    """The outcome of a node that needs no process, None for one that must wait or run."""
    above = [endings[key].outcome for key in node.after if key in endings]
    if any(outcome in BROKEN for outcome in above):
        return Outcome.CANCELLED if stopped else Outcome.NOT_READY
    if stopped:
        return Outcome.CANCELLED
    if len(above) == len(node.after) and not node.changed and not MOVED.intersection(above):
        return Outcome.UP_TO_DATE
    return None


def _drain(finished: queue.SimpleQueue[tuple[str, Outcome, str]], seconds: float) -> Iterable[tuple[str, Outcome, str]]:
    """Wait up to `seconds` for one ending, then take all that have come."""
    try:
        yield finished.get(timeout=seconds)
        while True:
            yield finished.get_nowait()
    except queue.Empty:
        return


def _ranks(nodes: Mapping[str, Node]) -> dict[str, tuple[bool, int, int]]:
    """Sort keys: gates and what they need, then the longest chain of stages below, then the order of the graph."""
    below, opens = dict.fromkeys(nodes, 0), {key: node.stage.gate for key, node in nodes.items()}
    for node in reversed(list(nodes.values())):
        for key in node.after:
            below[key] = max(below[key], below[node.key] + 1)
            opens[key] |= opens[node.key]
    return {key: (not opens[key], -below[key], place) for place, key in enumerate(nodes)}
