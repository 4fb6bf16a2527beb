"""What dvc.yaml declares, as DVC itself expands it, and how its code dependencies differ from the imports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.import_closure import closure, python_files

CODE = {"distill", "stages", "tasks", "flows", "benchmarks", "tests"}


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

    @property
    def block(self) -> str:
        """Its block in dvc.yaml."""
        return self.name.split("@")[0]


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
                )
            )
    return tuple(stages)


def dependency_faults(stage: Stage, root: Path) -> list[str]:
    """What must change in the stage's `deps:` for them to name its import closure and nothing else.

    A folder among the `deps:` stands for every non-empty Python file below it; data is left alone.
    """
    names = re.findall(r"\bpython -m (stages\.\w+)", stage.command)
    if not names:
        return [f"{stage.block}: its command `{stage.command}` must be `python -m stages.<file> ...`"]
    needed: set[Path] = set()
    for name in names:
        file = Path(*name.split(".")).with_suffix(".py")
        if not (root / file).is_file():
            return [f"{stage.block}: {file.as_posix()} does not exist"]
        needed |= closure(file, root)

    code = [dep for dep in stage.deps if PurePosixPath(dep).parts[0] in CODE]
    covered = {dep: python_files(Path(dep), root) for dep in code}
    missing = sorted(needed.difference(*covered.values()))
    faults = [f"{stage.block}: add    - {file.as_posix()}" for file in missing]
    for dep in code:
        foreign = ", ".join(file.as_posix() for file in sorted(covered[dep] - needed))
        if not (root / dep).exists():
            faults.append(f"{stage.block}: remove - {dep}  (there is no such file)")
        elif foreign:
            faults.append(f"{stage.block}: remove - {dep}  (it never imports {foreign})")
    return faults
