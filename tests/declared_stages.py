"""What dvc.yaml declares, as DVC itself expands it, and how its code dependencies differ from the imports."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from distill.project.settings import read_yaml
from tests.import_closure import ROOT, closure, grouped, python_files

CODE = {"distill", "stages", "commands", "tasks", "flows", "benchmarks", "tests"}
OBJECTIVES = "distill/objectives"
# Blocks that run again in seconds: whole folders may stand in their `deps:`, so that the graph stays short.
SECONDS = {"labelled", "measured_against", "results", "report"}


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, with foreach, matrix and `${…}` resolved."""

    name: str
    """With its instance: `sft@tiny`."""
    command: str
    deps: tuple[str, ...]
    params: tuple[tuple[str, str], ...]
    """(file, key) pairs; the key is empty where the whole file is a parameter."""
    outs: tuple[str, ...]
    persisted: tuple[str, ...]
    gpus: int
    """Devices it asks for: `meta: {gpus: N}`."""

    @property
    def block(self) -> str:
        """Its block in dvc.yaml."""
        return self.name.split("@")[0]


def copy_of_the_pipeline(root: Path, judge: Mapping[str, Any]) -> None:
    """dvc.yaml, params.yaml, profiles and code of the repository in `root`, with another `judge` section."""
    from dvc.repo import Repo
    from ruamel.yaml import YAML

    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    for name in ("profiles", "evalsets", "distill", "stages", "judge"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (root / "params.yaml").write_text(json.dumps(params | {"judge": dict(judge)}), encoding="utf-8")
    Repo.init(str(root), no_scm=True).close()


def every_stage() -> tuple[Stage, ...]:
    """All stages that dvc.yaml has, those of the judge too, which params.yaml switches off."""
    params = read_yaml(ROOT / "params.yaml")
    with TemporaryDirectory() as folder:
        copy_of_the_pipeline(Path(folder), params["judge"] | {"datasets": list(params["datasets"])[:1]})
        return read_pipeline(Path(folder))


def read_pipeline(root: Path) -> tuple[Stage, ...]:
    """All stages of the dvc.yaml in `root`, through DVC's own reader."""
    # dvc takes most of a second to import, and most tests of this folder do without it.
    from dvc.dependency.param import ParamsDependency
    from dvc.repo import Repo

    stages = []
    with Repo(str(root)) as repo:
        for stage in repo.index.stages:
            commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd or []
            tracked = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
            files = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
            stages.append(
                Stage(
                    name=stage.name,
                    command=" && ".join(commands),
                    deps=tuple(dep.def_path for dep in files),
                    params=tuple((dep.def_path, key) for dep in tracked for key in dep.params or [""]),
                    outs=tuple(out.def_path for out in stage.outs),
                    persisted=tuple(out.def_path for out in stage.outs if out.persist),
                    gpus=int((stage.meta or {}).get("gpus", 0)),
                )
            )
    return tuple(stages)


def objective_of(stage: Stage) -> str | None:
    """The file or folder in distill/objectives/ that the stage's command names; None where it names none."""
    found = re.search(r"\bpython -m stages\.on_\w+ \S+ \S+ (\S+)", stage.command)
    return f"{OBJECTIVES}/{found.group(1)}" if found else None


def needed_files(stage: Stage, root: Path) -> set[Path]:
    """The modules that the stage runs: the import closure of its command's file, and that of its objective.

    Raises: ValueError when the command, or the objective that it names, is not there.
    """
    names = re.findall(r"\bpython -m (stages\.\w+)", stage.command)
    if not names:
        raise ValueError(f"its command `{stage.command}` must be `python -m stages.<file> ...`")
    starts = [Path(*name.split(".")).with_suffix(".py") for name in names]
    if (objective := objective_of(stage)) is not None:
        starts += sorted(python_files(Path(objective), root)) or [Path(objective)]
    needed: set[Path] = set()
    for file in starts:
        if not (root / file).is_file():
            raise ValueError(f"{file.as_posix()} does not exist")
        needed |= closure(file, root)
    return needed


def dependency_faults(stage: Stage, root: Path) -> list[str]:
    """What must change in the stage's `deps:` for them to name the modules that it runs and nothing else.

    A folder among the `deps:` stands for every non-empty Python file below it; data is left alone. Methods that
    share a template share its `deps:`, so a module may stand there that only another one's objective imports.
    """
    try:
        needed = needed_files(stage, root)
        allowed = needed | _of_template(stage, root)
    except ValueError as error:
        return [f"{stage.block}: {error}"]
    code = [dep for dep in stage.deps if PurePosixPath(dep).parts[0] in CODE]
    covered = {dep: python_files(Path(dep), root) for dep in code}
    missing = sorted(needed.difference(*covered.values()))
    faults = [f"{stage.block}: add    - {file.as_posix()}" for file in missing]
    for dep in code:
        foreign = covered[dep] - allowed
        if stage.block in SECONDS and covered[dep] & allowed:
            continue
        if not (root / dep).exists():
            faults.append(f"{stage.block}: remove - {dep}  (there is no such file)")
        elif foreign:
            names = ", ".join(file.as_posix() for file in sorted(foreign))
            faults.append(f"{stage.block}: remove - {dep}  (it never imports {names})")
    return faults


def _of_template(stage: Stage, root: Path) -> set[Path]:
    """What the objectives of blocks with the same `deps:` import from outside of distill/objectives/.

    Of all blocks, those of methods too that params.yaml does not name. YAML gives blocks that merge a template one
    and the same list.
    """
    if objective_of(stage) is None:
        return set()
    blocks = {name: block.get("do", block) for name, block in read_yaml(root / "dvc.yaml")["stages"].items()}
    own = blocks[stage.block]["deps"]
    alike = [block for block in blocks.values() if block.get("deps") is own]
    named = {
        variables["objective"] for block in alike for variables in block.get("vars", []) if "objective" in variables
    }
    files = {file for objective in named for file in python_files(Path(OBJECTIVES, objective), root)}
    found = set[Path]().union(*(closure(file, root) for file in files))
    return {file for file in found if not file.is_relative_to(OBJECTIVES)}


def written_deps(one: Stage, root: Path) -> list[str]:
    """The code half of the `deps:` of the block of which `one` is an instance, as lines of dvc.yaml."""
    files = needed_files(one, root) | _of_template(one, root)
    if one.block in SECONDS:
        folders = {Path(*file.parts[:2]) if file.parts[0] == "distill" else file for file in files}
        return [folder.as_posix() for folder in sorted(folders)]
    if objective_of(one) is None:
        return grouped(files, root)
    apart = {file for file in files if not file.is_relative_to(OBJECTIVES)}
    return sorted([*grouped(apart, root), f"{OBJECTIVES}/${{objective}}"])


def with_written_deps(text: str, pipeline: Sequence[Stage], root: Path) -> str:
    """The text of dvc.yaml with the code half of every `deps:` made anew; data and comments stay.

    A block that writes no `deps:` of its own takes those of its template. One without an instance (no set is
    judged, say) is left as it is.
    """
    blocks = {stage.block: stage for stage in pipeline}
    lines: list[str] = []
    block, indent = "", -1
    for line in text.splitlines():
        if found := re.match(r"  (\w+):", line):
            block = found.group(1)
        depth = len(line) - len(line.lstrip())
        item = line.lstrip().removeprefix("- ")
        if 0 <= indent <= depth and line.lstrip().startswith("- "):
            if PurePosixPath(item).parts[0] not in CODE or (item != f"{OBJECTIVES}/${{objective}}" and "${" in item):
                lines.append(line)
            continue
        if indent >= 0:
            lines += [f"{' ' * (indent + 2)}- {dep}" for dep in written_deps(blocks[block], root)]
            indent = -1
        lines.append(line)
        if line.strip() == "deps:" and block in blocks:
            indent = depth
    return "\n".join(lines) + "\n"
