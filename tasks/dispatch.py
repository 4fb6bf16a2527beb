"""A schedule's nodes as Prefect tasks: `tasks.schedule` decides, `tasks.reproduce` runs, the UI shows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prefect import allow_failure
from prefect.futures import PrefectFuture, wait

from tasks.leases import Lease, Slots
from tasks.reproduce import RunPlace, reproduce, settle
from tasks.schedule import Ending, Finish, Node, Outcome, run_nodes

_WHY = {
    Outcome.UP_TO_DATE: "DVC found nothing changed",
    Outcome.NOT_READY: "a stage failed without which it is of no use",
    Outcome.CANCELLED: "the run was stopped before this stage began",
}


def dispatch(
    nodes: Iterable[Node],
    slots: Slots,
    places: Mapping[str, RunPlace],
    stop: threading.Event,
    claim: Callable[[Node], bool] = lambda _: True,
    unclaim: Callable[[Node], None] = lambda _: None,
) -> dict[str, Ending]:
    """Run `nodes` as tasks of the current flow run; return their endings by key.

    `places` gives the place of each clone. However this function ends, no stage is left running.
    """
    futures: dict[str, PrefectFuture[Any]] = {}

    def start(node: Node, lease: Lease, finish: Finish) -> None:
        task = reproduce.with_options(name=node.stage.name, task_run_name=node.key, retries=node.stage.retries)
        future = task.submit(node.stage, places[node.clone], lease, wait_for=above(node), return_state=False)
        futures[node.key] = future
        future.add_done_callback(lambda done: _tell(done, node, finish, unclaim))

    def show(node: Node, outcome: Outcome) -> None:
        task = settle.with_options(name=node.stage.name, task_run_name=node.key)
        futures[node.key] = task.submit(outcome, _WHY[outcome], wait_for=above(node), return_state=False)

    def above(node: Node) -> list[Any]:
        # They have ended and their failures are settled: only the UI's arrows need them.
        return [allow_failure(futures[key]) for key in node.after]

    try:
        return run_nodes(nodes, slots, start, show, stop.is_set, claim)
    finally:
        # Also on SIGTERM, which Prefect turns into an exception: the stages end first, then the run.
        stop.set()
        wait(list(futures.values()))


def _tell(done: PrefectFuture[Any], node: Node, finish: Finish, unclaim: Callable[[Node], None]) -> None:
    outcome, message = Outcome.FAILED, "Prefect lost this task; run the same command again"
    try:
        done.wait()
        state = done.state
        message = state.message or ""
        if state.is_cancelled():
            outcome = Outcome.CANCELLED
        elif state.is_completed():
            outcome = Outcome(state.name or "")
    finally:  # whatever happens here, the schedule must not wait for ever
        unclaim(node)
        finish(outcome, message)
