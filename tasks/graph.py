"""DVC's own graph, read into frozen stages. The only file that touches `dvc.repo`, which is not public.

What is out of date is decided by `dvc status`, once; nothing here second-guesses it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import RebuildError
from tasks.processes import environment

_RETRY_DELAY_S = 10.0  # time for a driver to recover or for another process's memory to be freed


@dataclass(frozen=True)
class Stage:
    """One stage of `dvc.yaml` (or one `.dvc` file) and what scheduling needs to know of it."""

    name: str
    """Its address, as `dvc repro` takes it: `minillm@tiny`."""
    upstream: tuple[str, ...]
    """Names of the stages whose outputs it reads directly."""
    outs: tuple[str, ...]
    """Paths it writes, relative to the repository."""
    metrics: tuple[str, ...]
    """Those of `outs` that are metrics files."""
    in_git: tuple[str, ...]
    """Those of `outs` that git keeps, since DVC's cache does not: `cache: false`."""
    gpus: int
    """Devices it asks for: `meta: {gpus: N}`; 0 runs on a CPU slot."""
    retries: int
    """Further attempts after a failure: `meta: {retries: N}`."""
    retry_delay_s: float
    """Seconds before each of them: `meta: {retry_delay_s: S}`."""
    key: str
    """A hash of its command, its settings, its other inputs' paths and the keys upstream: two clones of one
    commit whose stages have equal keys would build the same thing."""


@dataclass(frozen=True)
class Graph:
    """The stages asked for and everything they need, in dependency order."""

    stages: Mapping[str, Stage]
    changed: frozenset[str]
    """Stages that `dvc status` calls changed, before anything upstream of them has been rebuilt."""
    remote: str | None
    """The address of DVC's default remote."""


def read_graph(root: Path, targets: Iterable[str] = ()) -> Graph:
    """Read the graph and the status of the DVC repository at `root`.

    `targets` are stage names or groups (`minillm` for every `minillm@…`); none means every stage.

    Raises: RebuildError when the pipeline cannot be read or a target is in none of its stages.
    """
    with ThreadPoolExecutor(1) as pool:  # two seconds each, so side by side
        changed = pool.submit(_changed, root)
        stages, remote = _stages(root, list(targets))
        return Graph(stages, changed.result() & stages.keys(), remote)


def _stages(root: Path, targets: list[str]) -> tuple[dict[str, Stage], str | None]:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph

    try:
        with Repo(str(root)) as repo:
            needs = get_active_graph(repo.index.graph)  # edges point from a stage to what it needs
            wanted = {stage for target in targets for stage in repo.stage.collect(target)} or set(needs)
            stages: dict[str, Stage] = {}
            for node in _needed_first(needs, sorted(wanted, key=lambda stage: str(stage.addressing))):
                upstream = sorted(str(above.addressing) for above in needs.successors(node))
                stages[node.addressing] = _stage(node, [stages[name] for name in upstream])
            remote = repo.config["core"].get("remote")
            return stages, remote and repo.config["remote"][remote]["url"]
    except DvcException as error:
        raise RebuildError(
            f"DVC cannot read the pipeline in {root}: {error}\nMend it until `dvc dag` works."
        ) from error


def _needed_first(needs: Any, wanted: list[Any]) -> Iterator[Any]:
    """Every stage of `wanted` and all it needs, each after what it needs."""
    seen = set()
    stack = [(node, False) for node in reversed(wanted)]
    while stack:
        node, opened = stack.pop()
        if opened:
            yield node
        elif node not in seen:
            seen.add(node)
            above = sorted(needs.successors(node), key=lambda stage: str(stage.addressing), reverse=True)
            stack += [(node, True), *((stage, False) for stage in above)]


def _stage(node: Any, upstream: list[Stage]) -> Stage:
    from dvc.dependency.param import ParamsDependency

    meta = node.meta or {}
    made = {path for stage in upstream for path in stage.outs}
    settings = {dep.def_path: dep.read_params() for dep in node.deps if isinstance(dep, ParamsDependency)}
    inputs = sorted(dep.def_path for dep in node.deps if dep.def_path not in made)
    told = [node.cmd, settings, inputs, [stage.key for stage in upstream]]
    return Stage(
        name=node.addressing,
        upstream=tuple(stage.name for stage in upstream),
        outs=tuple(out.def_path for out in node.outs),
        in_git=tuple(out.def_path for out in node.outs if not out.use_cache),
        metrics=tuple(out.def_path for out in node.outs if out.metric),
        gpus=int(meta.get("gpus", 0)),
        retries=int(meta.get("retries", 0)),
        retry_delay_s=float(meta.get("retry_delay_s", _RETRY_DELAY_S)),
        key=hashlib.sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest(),
    )


def _changed(root: Path) -> frozenset[str]:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json"],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RebuildError(f"`dvc status` failed in {root}: {done.stderr.strip()}\nMend it until `dvc status` works.")
    return frozenset(json.loads(done.stdout))
