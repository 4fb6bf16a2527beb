"""DVC's own graph, read into frozen stages. Only this file imports `dvc.repo`, which is not public.

`dvc status` alone decides, once, which stages are out of date.
"""

from __future__ import annotations

import contextlib
import difflib
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
    """One stage of `dvc.yaml` (or one `.dvc` file), with the facts that scheduling needs."""

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
    gate: bool = False
    """Whether it goes first, and its failure ends all that leads to its goals alone: `meta: {gate: true}`."""
    goal: bool = False
    """Whether stages are built for its sake: `meta: {goal: true}`."""


@dataclass(frozen=True)
class Graph:
    """The target stages and all they need, in dependency order."""

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


def cache_of(root: Path) -> Path:
    """The folder of DVC's cache for the repository at `root`. Raises: RebuildError when DVC cannot read it."""
    with _repository(root) as repo:
        return Path(repo.cache.local_cache_dir).resolve()


@contextlib.contextmanager
def _repository(root: Path) -> Iterator[Any]:
    """DVC's view of `root`. Raises: RebuildError for whatever DVC raises inside."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            yield repo
    except RebuildError:
        raise
    except Exception as error:  # whatever the libraries below DVC raise: KeyError where a path has braces, OSError
        fix = "Correct it until `dvc dag` works."
        if "is not a git repository" in str(error):
            fix = "Run `git init`, or `dvc config --local core.no_scm true` to do without git."
        elif not isinstance(error, DvcException):
            fix = f"That is a {type(error).__name__}; `python -m commands.doctor --quick` may know why."
        raise RebuildError(f"DVC cannot read the pipeline in {root}: {error}\n{fix}") from error


def _stages(root: Path, targets: list[str]) -> tuple[dict[str, Stage], str | None]:
    from dvc.repo.reproduce import get_active_graph

    with _repository(root) as repo:
        needs = get_active_graph(repo.index.graph)  # edges point from a stage to what it needs
        nodes = {_address(node, root): node for node in needs}
        stages: dict[str, Stage] = {}
        for name in _needed_first(nodes, needs, _matching(nodes, targets)):
            upstream = sorted(_address(above, root) for above in needs.successors(nodes[name]))
            stages[name] = _stage(name, nodes[name], [stages[above] for above in upstream], root)
        remote = repo.config["core"].get("remote")
        return stages, remote and repo.config["remote"][remote]["url"]


def _address(node: Any, root: Path) -> str:
    """The name of a stage for `dvc repro` in `root`; DVC's own answer depends on the current folder."""
    from dvc.stage import PipelineStage

    file = _relative(node.path, root)
    if not isinstance(node, PipelineStage):  # a .dvc file
        return file
    return str(node.name) if file == "dvc.yaml" else f"{file}:{node.name}"


def _relative(path: str, root: Path) -> str:
    """A path as the pipeline in `root` writes it, the same in every clone; a path outside stays as it is."""
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path


def _matching(names: Iterable[str], targets: list[str]) -> list[str]:
    """The stages that `targets` name, one by one or as a group; all of them without targets."""
    known = list(names)
    if not targets:
        return known
    for target in targets:
        if not any(target in (name, name.partition("@")[0]) for name in known):
            groups = {name.partition("@")[0] for name in known}
            near = difflib.get_close_matches(target, [*known, *groups])
            hint = f"Did you mean {' or '.join(near)}?" if near else "`dvc stage list` lists them."
            raise RebuildError(f"There is no stage {target!r}.\n{hint}")
    return [name for name in known if name in targets or name.partition("@")[0] in targets]


def _needed_first(nodes: Mapping[str, Any], needs: Any, wanted: list[str]) -> Iterator[str]:
    """Every stage of `wanted` and all it needs, each after what it needs."""
    names = {node: name for name, node in nodes.items()}
    seen = set()
    stack = [(name, False) for name in reversed(wanted)]
    while stack:
        name, opened = stack.pop()
        if opened:
            yield name
        elif name not in seen:
            seen.add(name)
            above = sorted((names[node] for node in needs.successors(nodes[name])), reverse=True)
            stack += [(name, True), *((other, False) for other in above)]


def _stage(name: str, node: Any, upstream: list[Stage], root: Path) -> Stage:
    from dvc.dependency.param import ParamsDependency

    meta = node.meta or {}
    made = {path for stage in upstream for path in stage.outs}
    settings = {_relative(d.fs_path, root): d.read_params() for d in node.deps if isinstance(d, ParamsDependency)}
    inputs = sorted({_relative(dep.fs_path, root) for dep in node.deps} - made)
    told = [node.cmd, settings, inputs, [stage.key for stage in upstream]]
    return Stage(
        name=name,
        upstream=tuple(stage.name for stage in upstream),
        outs=tuple(_relative(out.fs_path, root) for out in node.outs),
        in_git=tuple(_relative(out.fs_path, root) for out in node.outs if not out.use_cache),
        metrics=tuple(_relative(out.fs_path, root) for out in node.outs if out.metric),
        gpus=int(meta.get("gpus", 0)),
        retries=int(meta.get("retries", 0)),
        retry_delay_s=float(meta.get("retry_delay_s", _RETRY_DELAY_S)),
        key=hashlib.sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest(),
        gate=bool(meta.get("gate", False)),
        goal=bool(meta.get("goal", False)),
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
        fix = "Correct it until `dvc status` works."
        raise RebuildError(f"`dvc status` failed in {root}: {done.stderr.strip()}\n{fix}")
    return frozenset(json.loads(done.stdout))
