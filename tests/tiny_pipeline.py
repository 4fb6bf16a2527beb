"""The project's own pipeline, shrunk: a clone whose whole `dvc repro` takes half a minute.

Code, stages and graph are the repository's; only the settings are smaller and few methods are named, because
importing torch for each stage is what takes the time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from distill.project.errors import run_stage

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = ("distill", "stages", "commands", "flows", "evalsets", "labelsets", "judge")
FILES = (".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore", "dvc.yaml", "params.yaml")
LEFT_OUT = ("pseudo",)

STUDENTS = {"small": {"family": "mini"}}


def methods(*names: str, students: dict[str, dict[str, str]] = STUDENTS) -> dict[str, Any]:
    """`students`, `methods` and `trained` of params.yaml: one object, so that YAML writes aliases."""
    rows = dict.fromkeys(names, students)
    return {"students": students, "methods": rows, "trained": rows}


def set_methods(root: Path, *names: str) -> None:
    """Have the small pipeline in `root` train and evaluate these methods."""
    yaml, path = YAML(), root / "params.yaml"
    content = yaml.load(path)
    content |= methods(*names, students=content["students"])
    yaml.dump(content, path)


METHODS = ("sft", "minillm")
TABLE = {
    "families": {"mini": "distill/world"},
    "datasets": {"toy_id": "data/mini/tests/toy_id.jsonl"},
    "calibration": {"toy_whether": "distill/world"},
    "evaluation.seeds": [10, 20],
}
PROFILE = """\
recipe:
  note: mini profile, for tests
  dtype: float32
  data:
    world: {train: 200, valid: 20, test: 10, documents: 60}
    rows: {teacher: 96, student: 64}
  prompt:
    with_input: "{instruction}\\n{input}\\n"
    without_input: "{instruction}\\n"
    max_prompt_tokens: 200
    max_response_tokens: 24
  tokenizer:
    train: {vocab_size: 400}
  teacher:
    model:
      init: {model_type: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 256}
      pretrain: {steps: 4, batch_size: 8, sequence_length: 32, learning_rate: 3e-3}
    sft: {learning_rate: 3e-3, batch_size: 32, epochs: 2}
  pseudo: {samples_per_prompt: 1}
  students:
    small:
      model:
        init: {model_type: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 256}
      init: {learning_rate: 3e-3, batch_size: 32, epochs: 1, select: loss}
      sft: {learning_rate: 3e-3, batch_size: 32, epochs: 2}
      kd: {learning_rate: 3e-3, batch_size: 32, epochs: 1}
      seqkd: {learning_rate: 3e-3, batch_size: 32, epochs: 1}
      seqkd_multi: {learning_rate: 3e-3, batch_size: 32, epochs: 1}
      minillm:
        {learning_rate: 3e-2, warmup_steps: 2, rollouts: 16, minibatch: 8, inner_epochs: 2, max_steps: 6,
         evaluate_every: 3, teacher_mix_alpha: 0.2}
      single_step: {learning_rate: 1e-3, rollouts: 16, minibatch: 8, max_steps: 6, policy_gradient: false}
hardware: {threads: 1, micro_batch: 32, decode_batch: 8, save_every: 1}
"""
MINI = Path("profiles/mini.yaml")
SMALL = "recipe.students.small"


def write_table(root: Path) -> None:
    """The small pipeline's rows in place of those of the params.yaml in `root`."""
    for place, value in {"students": STUDENTS, **TABLE}.items():
        edit(root / "params.yaml", place, value)
    set_methods(root, *METHODS)


def make(root: Path, left_out: Sequence[str] = LEFT_OUT) -> Path:
    """Write a clone into the new folder `root`, as a git and DVC repository with one commit."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / file)
    write_table(root)
    (root / "profiles").mkdir()
    (root / "profiles/mini.yaml").write_text(PROFILE)
    for block in left_out:
        edit(root / "dvc.yaml", f"stages.{block}", DELETED)
    git(root, "init", "--quiet")
    commit(root, "A small pipeline")
    return root


DELETED = "(deleted)"


def edit(path: Path, place: str, value: object) -> None:
    """Set or delete one dotted place of a YAML file; comments stay."""
    yaml = YAML()
    content = yaml.load(path)
    *above, last = place.split(".")
    inside = content
    for step in above:
        inside = inside[step]
    if value is DELETED:
        del inside[last]
    else:
        inside[last] = value
    yaml.dump(content, path)


def git(root: Path, *arguments: str) -> str:
    """Run git in `root`, as nobody in particular."""
    identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    return run(root, "git", *identity, *arguments)


def commit(root: Path, message: str) -> None:
    """Commit everything that .gitignore lets through."""
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", message)


def environment() -> dict[str, str]:
    """What DVC and stages run under: this interpreter first on PATH, one thread, no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "PYTEST_"))}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
    }


def start(root: Path, *command: str, **variables: str) -> subprocess.Popen[str]:
    """Start a command in `root`, in a process group of its own and with more environment variables."""
    return subprocess.Popen(
        command,
        cwd=root,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(root: Path, *command: str) -> str:
    """Run a command in `root`; what it printed. Fails the test with the command's own words."""
    process = start(root, *command)
    said = process.communicate()[0]
    assert process.returncode == 0, f"{' '.join(command)} exited with {process.returncode}:\n{said}"
    return said


def dvc(root: Path, *arguments: str) -> str:
    """Run DVC in `root`."""
    return run(root, sys.executable, "-m", "dvc", *arguments)


def stage(root: Path, *arguments: str) -> str:
    """Run one stage without DVC, e.g. `stage(root, "sft", "small", "init")`."""
    return run(root, sys.executable, "-m", f"stages.{arguments[0]}", *arguments[1:])


def stale(root: Path) -> dict[str, Any]:
    """The stages that DVC would run again, and why."""
    found: dict[str, Any] = json.loads(dvc(root, "status", "--json"))
    return found


def results(root: Path) -> dict[str, bytes]:
    """Every file of numbers in results/ with its bytes; the report beside them also tells how long things took."""
    found = sorted((root / "results").iterdir())
    return {path.name: path.read_bytes() for path in found if path.suffix in {".json", ".csv"}}


def weights(root: Path) -> dict[str, bytes]:
    """Every finished model's weights, by their place."""
    found = sorted(root.glob("runs/*/*/*.safetensors"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that was built without a disturbance and committed; made once a test run, to be copied, not changed."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # shared by all workers; the first to need the clone builds it
    root = folder / "tiny-pipeline"
    with (folder / "tiny-pipeline.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "dvc.lock").exists():
            shutil.rmtree(root, ignore_errors=True)
            making = make(folder / "tiny-pipeline-making")
            dvc(making, "repro")
            commit(making, "Its results")
            making.rename(root)
    return root


Stage = Callable[..., None]


def write_settings(root: Path) -> None:
    """Profile and table of the small pipeline in `root`, one sampling seed, for stages run by `in_folder`."""
    (root / "profiles").mkdir()
    (root / "distill/world").mkdir(parents=True)
    (root / MINI).write_text(PROFILE)
    table = {**methods(*METHODS), **TABLE, "seed": 0, "evaluation": {"seeds": [10], "sampling": {"temperature": 1.0}}}
    del table["evaluation.seeds"]
    (root / "params.yaml").write_text(json.dumps(table))


def in_folder(folder: Path) -> Stage:
    """A function that runs a stage's `main` there, as `python -m stages.<file> <arguments>` would."""

    def run(main: Callable[[], None], *arguments: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["stage", *arguments])
            run_stage(main)

    return run
