"""A grid over settings: each point an isolated DVC experiment that reuses everything it shares with the others.

    python -m flows.sweep sweeps/ablations.yaml [--slots N] [--gpus 0,1]
    python -m flows.sweep sweeps/ablations.yaml --promote POINT --branch NAME

Stages that points share are built once. The same command continues an interrupted sweep. The table of all points is
an artifact and results/sweeps/<name>.csv; `dvc exp show` lists the points, and a promoted one is a commit.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from tasks.cancel import watched
from tasks.clone import changed_files
from tasks.comparison import compare
from tasks.dispatch import dispatch
from tasks.errors import RebuildError
from tasks.graph import Graph, read_graph
from tasks.grid import Point, Sweep, read_sweep
from tasks.leases import Slots, visible_devices
from tasks.leftovers import clear_leftovers
from tasks.locks import hold_clone
from tasks.mappings import read_mapping
from tasks.metrics import MetricValue, values
from tasks.own_results import prefer_own_results
from tasks.points import merge, open_clone, prepare, promote, save
from tasks.reproduce import RunPlace
from tasks.schedule import BROKEN, Ending, Outcome, nodes_of
from tasks.server import server


@flow(name="sweep", persist_result=False)
def sweep(file: str, gpus: list[str] | None = None, slots: int = 2) -> State[Any]:
    """Build every point of the sweep in `file`, and compare them.

    Args:
        file: the sweep, e.g. sweeps/ablations.yaml.
        gpus: devices to use; none means all that this machine shows, [] means none.
        slots: how many stages without a GPU run side by side.
    """
    run_id, stop, root, log = UUID(str(flow_run.id)), threading.Event(), Path.cwd(), get_run_logger()
    try:
        plan = read_sweep(Path(file))
        if left_out := changed_files(root)[1]:
            log.warning("not in this sweep, because the commit does not hold it: %s", ", ".join(left_out))
        with watched(stop, run_id), contextlib.ExitStack() as stack:
            box = Slots(visible_devices(gpus), max(1, slots))
            places: dict[str, RunPlace] = {}
            for point in plan.points:
                clone = open_clone(root, plan, point)
                held = stack.enter_context(hold_clone(clone, str(run_id), log.info, stop.is_set))
                if held is None:
                    return Cancelled(message="stopped while waiting for another run of this sweep")
                said = clear_leftovers(clone)
                prepare(root, clone, point)
                for sentence in (*said, *prefer_own_results(clone)):
                    log.info("%s: %s", point.name, sentence)
                places[point.name] = RunPlace(clone, stop, held.descriptor, box.threads, pull=False, share=False)
            state = _build(root, plan, places, box, stop)
            again = f"stopped; continue with: python -m flows.sweep {file}"
            return Cancelled(message=again) if state.is_cancelled() else state
    except RebuildError as error:
        return Failed(message=str(error))


def _build(root: Path, plan: Sweep, places: Mapping[str, RunPlace], box: Slots, stop: threading.Event) -> State[Any]:
    graphs = {name: read_graph(place.root, plan.targets) for name, place in places.items()}
    _require_metric(plan, graphs)
    nodes = merge({name: nodes_of(graph, name, prefix=f"{name}/") for name, graph in graphs.items()})
    endings = dispatch(nodes, box, places, stop)
    if any(ending.outcome is Outcome.CANCELLED for ending in endings.values()):
        return Cancelled()
    built = [point for point in plan.points if not _broken(point, graphs[point.name], endings)]
    comparison = compare(plan, {p.name: _numbers(places[p.name].root, graphs[p.name]) for p in built})
    target = root / "results/sweeps" / f"{plan.name}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(comparison.csv(), encoding="utf-8")
    create_markdown_artifact(comparison.markdown(), key="sweep", description=f"{plan.name}: {len(built)} points")
    faults = [*_saved(plan, built, places, graphs), *filter(None, [comparison.fault])]
    if failed := [point.name for point in plan.points if point not in built]:
        faults.append(
            f"{len(failed)} of {len(plan.points)} points failed: {', '.join(failed)}; see their tasks, correct "
            "the cause and run the same command"
        )
    if faults:
        return Failed(message="\n".join([f"{len(built)} points compared in {target}, but:", *faults]))
    return Completed(message=f"{len(built)} points compared in {target}")


def _saved(
    plan: Sweep, built: list[Point], places: Mapping[str, RunPlace], graphs: Mapping[str, Graph]
) -> Iterator[str]:
    """Save every built point as an experiment; a sentence for each that DVC could not save."""
    for point in built:
        try:
            save(plan, point, places[point.name].root, graphs[point.name])
        except RebuildError as error:
            yield f"{point.name} is built, and no experiment of it is saved: {error}"


def _require_metric(plan: Sweep, graphs: Mapping[str, Graph]) -> None:
    """Raises: RebuildError when no stage of a point writes the metrics file that the sweep's metric is in."""
    for name, graph in graphs.items():
        stems = [Path(path).stem for stage in graph.stages.values() for path in stage.metrics]
        if not any(plan.metric.startswith(f"{stem}.") for stem in stems):
            known = ", ".join(f"{stem}.…" for stem in stems)
            raise RebuildError(
                f"No stage of point {name} writes the metric {plan.metric!r}.\n"
                + (f"Name a metric of these: {known}" if known else "Add to `targets` the stage that writes it.")
            )


def _broken(point: Point, graph: Graph, endings: Mapping[str, Ending]) -> bool:
    return any(endings[f"{point.name}/{stage}"].outcome in BROKEN for stage in graph.stages)


def _numbers(clone: Path, graph: Graph) -> dict[str, MetricValue]:
    files = [clone / path for stage in graph.stages.values() for path in stage.metrics]
    return {name: value for file in files for name, value in values(read_mapping(file), file.stem)}


def main() -> int:
    """Run a sweep from a terminal, or promote one of its points; 0, 1 after a failure, 130 when stopped."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="e.g. sweeps/ablations.yaml")
    parser.add_argument("--slots", type=int, default=2, help="stages without a GPU side by side (default: 2)")
    parser.add_argument("--gpus", help="devices to use, e.g. 0,1; '' for none (default: all)")
    parser.add_argument("--promote", metavar="POINT", help="make a built point a commit on a branch")
    parser.add_argument("--branch", help="the branch of the promoted point (default: sweep/<name>/<point>)")
    given = parser.parse_args()
    try:
        if given.promote:
            return _promote(given.file, given.promote, given.branch)
        read_sweep(given.file)  # report its faults before a server starts
        gpus = None if given.gpus is None else [device for device in given.gpus.split(",") if device]
        with server(_say):
            state: State[Any] = sweep(str(given.file), gpus, given.slots, return_state=True)
    except RebuildError as error:
        _say(f"error: {error}")
        return 2
    _say(f"{state.name}: {state.message}")
    return 0 if state.is_completed() else 130 if state.is_cancelled() else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _promote(file: Path, name: str, branch: str | None) -> int:
    plan = read_sweep(file)
    point = next((point for point in plan.points if point.name == name), None)
    if point is None:
        known = ", ".join(point.name for point in plan.points)
        raise RebuildError(f"{file} has no point {name!r}.\nName one of: {known}")
    target = branch or f"sweep/{plan.name}/{point.name}"
    promote(Path.cwd(), plan, point, target)
    print(f"{point.name} is branch {target}: `git merge {target} && make repro` restores it here, and builds the rest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
