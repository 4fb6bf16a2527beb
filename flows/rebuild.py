"""Bring everything that DVC calls out of date up to date, in parallel, under Prefect.

    python -m flows.rebuild [TARGET …] [--slots N] [--gpus 0,1] [--ref main] [--publish]

DVC gives the graph and its stale stages; each stale stage is one task that runs `dvc repro -s`.
Plain `dvc repro` does the same work one stage at a time and needs no server.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_client, get_run_logger
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Crashed, Failed

from tasks.cancel import watched
from tasks.claims import claims
from tasks.clone import check_out, check_settings, git, has_commit
from tasks.dispatch import dispatch
from tasks.errors import RebuildError
from tasks.graph import Graph, read_graph
from tasks.leases import Slots, visible_devices
from tasks.leftovers import clear_leftovers
from tasks.locks import Holder, hold_clone
from tasks.metrics import CommitMetrics, compare_with
from tasks.own_results import prefer_own_results
from tasks.publish import commit, push
from tasks.report import Report, emit_worse, publish_report
from tasks.reproduce import RunPlace
from tasks.schedule import BROKEN, MOVED, Ending, Outcome, nodes_of
from tasks.server import server

_FAILURES_SHOWN = 3


@flow(name="rebuild", persist_result=False)
def rebuild(
    targets: list[str] | None = None,
    ref: str | None = None,
    publish: bool = False,
    branch: str | None = None,
    gpus: list[str] | None = None,
    slots: int = 2,
    fail_if_worse: bool = False,
) -> State[Any]:
    """Bring the clone in the current folder up to date.

    Args:
        targets: stages to build, with all they need; none means every stage.
        ref: branch, tag or commit to fetch and check out first; none means the clone as it is.
        publish: push each built stage at once, with DVC's run cache.
        branch: commit dvc.lock and the metrics to this branch.
        gpus: devices to use; none means all that this machine shows, [] means none.
        slots: how many stages without a GPU run side by side.
        fail_if_worse: fail, and emit an event, when a metric got worse than the commit's by more than chance.
    """
    log, run_id, stop, root = get_run_logger(), UUID(str(flow_run.id)), threading.Event(), Path.cwd()
    with watched(stop, run_id), hold_clone(root, str(run_id), log.info, stop.is_set) as clone:
        if clone is None:
            return Cancelled(message="stopped while waiting for the clone")
        if clone.left_behind:
            log.warning("an earlier run was killed: %s; continuing where it ended", clone.left_behind)
            _bury(clone.left_behind)
        for sentence in clear_leftovers(root):
            log.warning(sentence)
        request = Request(tuple(targets or ()), ref, publish, branch, gpus, slots, fail_if_worse)
        try:
            return _bring_up_to_date(root, request, clone.descriptor, stop)
        except RebuildError as error:
            return Failed(message=str(error))


@dataclass(frozen=True)
class Request:
    """The parameters of a run; see `rebuild`."""

    targets: tuple[str, ...]
    ref: str | None
    publish: bool
    branch: str | None
    gpus: list[str] | None
    slots: int
    fail_if_worse: bool


def _bring_up_to_date(root: Path, request: Request, clone_lock: int, stop: threading.Event) -> State[Any]:
    began, log = time.monotonic(), get_run_logger()
    if request.ref:
        check_out(root, request.ref, log.info)
    check_settings(root)
    for sentence in prefer_own_results(root):
        log.info(sentence)
    graph = read_graph(root, request.targets)
    log.info("%d stages, %d of them changed", len(graph.stages), len(graph.changed))
    box = Slots(visible_devices(request.gpus), max(1, request.slots))
    place = RunPlace(
        root=root,
        stop=stop,
        clone_lock=clone_lock,
        threads=box.threads,
        pull=graph.remote is not None and (request.publish or request.ref is not None),
        share=graph.remote is not None and request.publish,
    )
    nodes, places = nodes_of(graph, str(root)), {str(root): place}
    if graph.remote and request.publish:
        with claims(graph.remote, UUID(str(flow_run.id)), log.info) as shared:
            endings = dispatch(
                nodes,
                box,
                places,
                stop,
                lambda node: shared.take(node.stage.name),
                lambda node: shared.give_back(node.stage.name),
            )
        push(root, [name for name, ending in endings.items() if ending.outcome not in BROKEN])
    else:
        endings = dispatch(nodes, box, places, stop)
    if stop.is_set() and any(ending.outcome is Outcome.CANCELLED for ending in endings.values()):
        # Nobody waits for a report now.
        return _final_state(Report(root, "", endings, CommitMetrics(), time.monotonic() - began), request)
    report = _report(root, endings, request.fail_if_worse, began)
    publish_report(report)
    if report.comparison.failure:
        log.warning(report.comparison.failure)
    if request.branch and not _broken(endings):
        commit(root, request.branch, ["dvc.lock", *_in_git(graph)], f"Rebuild: {report.headline()}", log.info)
    if request.fail_if_worse and report.comparison.worse:
        emit_worse(report, request.ref)
    return _final_state(report, request)


def _in_git(graph: Graph) -> list[str]:
    return [path for stage in graph.stages.values() for path in stage.in_git]


def _broken(endings: Mapping[str, Ending]) -> list[str]:
    return [name for name, ending in endings.items() if ending.outcome in BROKEN]


def _report(root: Path, endings: Mapping[str, Ending], gate: bool, began: float) -> Report:
    """A gate compares even when nothing moved: the results of the run before may be the worse ones."""
    moved = any(ending.outcome in MOVED for ending in endings.values())
    base, comparison = "", CommitMetrics()
    if (moved or gate) and has_commit(root):
        base, comparison = git(root, "log", "-1", "--format=%h %s"), compare_with(root, "HEAD")
    return Report(root, base, endings, comparison, time.monotonic() - began)


def _final_state(report: Report, request: Request) -> State[Any]:
    """One state for the whole run; a failure names the first failed stages and the command to go on."""
    again = " ".join(["python -m flows.rebuild", *request.targets])
    failed = [(name, ending) for name, ending in report.endings.items() if ending.outcome is Outcome.FAILED]
    cancelled = [name for name, ending in report.endings.items() if ending.outcome is Outcome.CANCELLED]
    if cancelled:
        return Cancelled(message=f"stopped: {report.headline()}. Continue with: {again}")
    if failed:
        shown = [f"{name}: {ending.message}" for name, ending in failed[:_FAILURES_SHOWN]]
        more = [f"… and {len(failed) - _FAILURES_SHOWN} more"] if len(failed) > _FAILURES_SHOWN else []
        fix = f"Correct that, then continue with: {again}"
        return Failed(message="\n".join([report.headline(), *shown, *more, fix]))
    if request.fail_if_worse and report.comparison.failure:
        told = ["Everything was built, but the comparison failed:", report.comparison.failure]
        return Failed(name="NotCompared", message="\n".join([*told, f"Correct that, then run again: {again}"]))
    if request.fail_if_worse and report.comparison.worse:
        rows = [f"{change.name}: {change.old} → {change.new}" for change in report.comparison.worse]
        return Failed(name="Worse", message="\n".join(["Everything was built, and these metrics got worse:", *rows]))
    moved = any(ending.outcome in MOVED for ending in report.endings.values())
    return Completed(name=None if moved else Outcome.UP_TO_DATE, message=report.headline())


def _bury(holder: Holder) -> None:
    """Mark the flow run of a killed process as crashed; the UI would show it as running otherwise."""
    with (
        contextlib.suppress(httpx.HTTPError, ObjectNotFound, ValueError),
        get_client(sync_client=True) as client,
    ):
        state = client.read_flow_run(UUID(holder.flow_run)).state
        if state is not None and not state.is_final():
            message = f"process {holder.pid} was killed; found by flow run {flow_run.id}"
            client.set_flow_run_state(UUID(holder.flow_run), Crashed(message=message), force=True)


def main() -> int:
    """Run the flow from a terminal; 0 when all is up to date, 1 after a failure, 130 when it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m flows.rebuild", description=__doc__.splitlines()[0])
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="stages to build, with all they need (default: every stage)",
    )
    parser.add_argument("--slots", type=int, default=2, help="stages without a GPU that run side by side (default: 2)")
    parser.add_argument("--gpus", help="devices to use, e.g. 0,1; '' for none (default: all)")
    parser.add_argument("--ref", help="fetch and check out this branch, tag or commit first")
    parser.add_argument("--publish", action="store_true", help="push what is built to the DVC remote")
    parser.add_argument("--branch", help="commit dvc.lock and the metrics to this branch")
    parser.add_argument("--fail-if-worse", action="store_true", help="fail when a metric got worse by more than chance")
    given = vars(parser.parse_args())
    if given["gpus"] is not None:
        given["gpus"] = [device for device in given["gpus"].split(",") if device]
    try:
        with server(say=lambda text: print(text, file=sys.stderr, flush=True)):
            state: State[Any] = rebuild(**given, return_state=True)
    except RebuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{state.name}: {state.message}", file=sys.stderr)
    return 0 if state.is_completed() else 130 if state.is_cancelled() else 1


if __name__ == "__main__":
    sys.exit(main())
