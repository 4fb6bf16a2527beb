"""The points of a sweep as DVC experiments: each in a clone of its own, with this clone's DVC cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tasks.clone import changed_files, check_settings, dvc, git, make_clone
from tasks.graph import Graph
from tasks.grid import Point, Sweep
from tasks.point_settings import write_settings
from tasks.schedule import Node

_FOLDER = Path(".dvc/tmp/sweeps")  # inside .dvc, where neither git nor DVC looks for files of the project


def clone_of(root: Path, sweep: Sweep, point: Point) -> Path:
    """The clone of a point."""
    return root / _FOLDER / sweep.name / point.name


def experiment_of(sweep: Sweep, point: Point) -> str:
    """The name of a point's DVC experiment, as `dvc exp show` lists it."""
    return f"{sweep.name}-{point.name}"


def open_clone(root: Path, sweep: Sweep, point: Point) -> Path:
    """A point's clone, made unless it is there. Raises: RebuildError when something else is there."""
    clone = clone_of(root, sweep, point)
    make_clone(root, clone)
    return clone


def prepare(root: Path, clone: Path, point: Point) -> None:
    """Bring a point's clone to the commit checked out in `root`, with the point's settings, all of them valid.

    Hold the clone's lock. Raises: RebuildError for a setting that does not exist or has a value the stages refuse.
    """
    head = git(root, "rev-parse", "HEAD")
    if git(clone, "rev-parse", "HEAD") != head:
        git(clone, "fetch", "--quiet", "origin", head)
        git(clone, "checkout", "--quiet", "--force", "--detach", head)
    elif written := [name for name in changed_files(clone, "M")[1] if Path(name).name != ".gitignore"]:
        # By an earlier form of the sweep, which may have had more settings; DVC itself writes .gitignore.
        git(clone, "checkout", "--quiet", "HEAD", "--", *written)
    write_settings(clone, point.settings)
    check_settings(clone)


def merge(by_point: Mapping[str, list[Node]]) -> list[Node]:
    """All points' nodes as one schedule, in which a stage that several points share waits for the first of them.

    The first one builds it; the others then find it in the cache.
    """
    first: dict[str, str] = {}
    merged = []
    for nodes in by_point.values():
        for node in nodes:
            earlier = first.setdefault(node.stage.key, node.key)
            shared = (earlier,) if earlier != node.key else ()
            merged.append(replace(node, after=(*node.after, *shared)))
    return merged


def save(sweep: Sweep, point: Point, clone: Path, graph: Graph) -> None:
    """Save a built point as a DVC experiment in the clone that started the sweep.

    DVC records one stage anew, the last of those that were built: all are recorded already, and without a target DVC
    would want the outputs of stages that the sweep does not build.

    Raises: RebuildError with DVC's own words.
    """
    name, last = experiment_of(sweep, point), list(graph.stages)[-1]
    # Outputs that git keeps must be named where the commit does not have them yet.
    new = [part for stage in graph.stages.values() for path in stage.in_git for part in ("--include-untracked", path)]
    dvc(clone, "exp", "save", last, "--force", "--name", name, *new)
    dvc(clone, "exp", "push", "--force", "--no-cache", "origin", name)


def promote(root: Path, sweep: Sweep, point: Point, branch: str) -> None:
    """Make a point's experiment a branch of `root`, one commit after the commit the sweep was built on.

    Raises: RebuildError when the point has not been built, or the branch exists.
    """
    dvc(root, "exp", "branch", experiment_of(sweep, point), branch)
