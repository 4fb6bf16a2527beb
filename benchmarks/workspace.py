"""Scratch copies of the working tree, in which a study may change settings without touching the original."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]


def edit_yaml(path: Path, **changes: Any) -> None:
    """Set dotted keys of a YAML file, its comments kept: `edit_yaml(p, **{"recipe.dtype": "bfloat16"})`."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    content = yaml.load(path.read_text(encoding="utf-8"))
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place = content
        for step in parents:
            place = place[step]
        place[last] = value
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def clone(target: Path) -> Path:
    """A copy of the tracked files with a DVC repository of its own and the original's cache."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    run(target, "dvc", "cache", "dir", str(ROOT / ".dvc/cache"))
    return target


def run(cwd: Path, module: str, *arguments: str) -> None:
    """`python -m module arguments` in `cwd`, with that copy's code, on one CPU thread; its output only on failure."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(cwd), "DVC_NO_ANALYTICS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"`{module} {' '.join(arguments)}` failed in {cwd}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )


def toy_run_place(place: Path, method: str, settings: dict[str, Any], seed: int = 0, start: str = "init") -> Path:
    """Make `place` a folder in which one method of the toy student can be trained with other settings.

    `start` names the checkpoint that takes the place of `init`.

    Data, teacher, start and teacher responses are the working tree's own (`make repro` first); one CPU thread. A run
    that collapses goes on, because the collapse may be the measured effect.
    """
    for folder in ("distill", "stages", "data", "evaluation"):
        (place / folder).symlink_to(ROOT / folder)
    for file in ("params.yaml", "profiles/toy.yaml"):
        (place / file).parent.mkdir(exist_ok=True)
        (place / file).write_bytes((ROOT / file).read_bytes())
    (place / "runs/tiny").mkdir(parents=True)
    (place / "runs/toy").symlink_to(ROOT / "runs/toy")
    for name, source in {"base": "base", "init": start}.items():
        if name != method:
            (place / f"runs/tiny/{name}").symlink_to(ROOT / f"runs/tiny/{source}")
    changes = {f"recipe.students.tiny.{method}.{name}": value for name, value in settings.items()}
    edit_yaml(place / "profiles/toy.yaml", **changes, **{"hardware.threads": 1, "hardware.on_collapse": "ignore"})
    edit_yaml(place / "params.yaml", seed=seed)
    return place


def curve(place: Path, method: str, name: str, who: str = "tiny") -> list[float]:
    """The values of one training curve of a run made in `place`."""
    lines = (place / f"runs/{who}/{method}.curves/{name}.tsv").read_text(encoding="utf-8").splitlines()
    return [float(line.split("\t")[1]) for line in lines[1:]]
