"""`dvc repro`, killed while it works and started again, ends with the bytes of a run that nobody disturbed.

The killed clone lies in another folder and shares no cache with the undisturbed one, so the same comparison shows that
two clones give the same results.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.leftovers import clear_leftovers
from tests.tiny_pipeline import built, dvc, environment, make, results, start, weights

# Python runs this file in every process that is started with its folder on PYTHONPATH: once a file that matches
# KILL_AT is about to be put in its place (or has been), the whole process group gets a signal, `dvc` included.
KILLER = """
import fnmatch, os, time

pattern, when, number = os.environ.get("KILL_AT", "::").split(":")
replace = os.replace

def replace_and_die(source, target, **options):
    hit = pattern and fnmatch.fnmatch(os.fspath(target), pattern)
    if hit and when == "before":
        os.killpg(0, int(number))
        time.sleep(60)
    replace(source, target, **options)
    if hit and when == "after":
        os.killpg(0, int(number))
    if hit and when == "parent":
        os.kill(os.getppid(), int(number))
        time.sleep(20)  # still at work when the next one comes

os.replace = replace_and_die
"""


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killer")
    (folder / "sitecustomize.py").write_text(KILLER)
    return folder


def killed(root: Path, killer: Path, at: str, when: str, number: signal.Signals, *command: str) -> str:
    """Run a command (`dvc repro` unless told) until it is killed at that moment; what it had said."""
    variables = {"PYTHONPATH": str(killer), "KILL_AT": f"{at}:{when}:{number.value}"}
    process = start(root, *(command or (sys.executable, "-m", "dvc", "repro")), **variables)
    said = process.communicate(timeout=600)[0]
    assert process.returncode != 0, f"it was never killed:\n{said}"
    return said


def progress(root: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / f".resume/progress/{stage}.json").read_text())
    return found


def left_aside(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*.part") if ".dvc" not in path.parts]


def test_three_kills_change_nothing(tmp_path: Path, killer: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = make(tmp_path / "repository")

    # SIGKILL while the teacher's third state is written: its files lie aside, its seal does not.
    at = ".resume/teacher@mini/*/.checkpoint-3.*.part/sha256.json"
    killed(root, killer, at, "before", signal.SIGKILL)
    assert (next(root.glob(".resume/teacher@mini/*/.checkpoint-3.*.part")) / "weights-00000.safetensors").exists()
    assert not (root / "runs/mini/teacher").exists()

    # SIGTERM in the middle of a collection of MiniLLM, which first stores the step it is at.
    at = ".resume/minillm@small/*/step-00000001"
    said = killed(root, killer, at, "after", signal.SIGTERM)
    assert progress(root, "teacher@mini")["resumed_from"] == 2
    assert "stopping once this step is stored" in said
    assert "terminated: nothing half-written was kept; run the same command to continue" in said
    assert not (root / "runs/small/minillm").exists()

    # Ctrl-C after the first batch of responses.
    at = ".resume/responses@small-*/*/*.jsonl"
    said = killed(root, killer, at, "after", signal.SIGINT)
    assert progress(root, "minillm@small")["resumed_from"] >= 1
    assert "interrupted: nothing half-written was kept; run the same command to continue" in said
    assert "Traceback" not in said
    # The stage's own code where $SHELL replaces itself by the stage; -2 where DVC's shell is a /bin/sh that waits for
    # it and dies of the same Ctrl-C, as in an environment without SHELL.
    assert "exited with 130" in said or "exited with -2" in said
    (stage,) = root.glob(".resume/responses@small-*")
    assert not list(root.glob("responses/small/*/*.jsonl"))

    dvc(root, "repro")
    assert progress(root, stage.name)["resumed_from"] == 8, "the first batch was not sampled again"
    reference = built(tmp_path_factory)
    assert weights(root) == weights(reference)
    assert results(root) == results(reference)
    assert not left_aside(root)
    assert {path.name for path in (root / ".resume").iterdir()} == {"progress", "running"}


def test_a_stage_that_outlived_its_dvc_is_waited_for(
    tmp_path: Path, killer: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = Path(shutil.copytree(built(tmp_path_factory), tmp_path / "repository"))
    expected = weights(root)
    again = (sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "sft@small")
    variables = {"PYTHONPATH": str(killer), "KILL_AT": ".resume/sft@small/*/.checkpoint-1.*.part/sha256.json:parent:9"}
    orphaned = start(root, *again, **variables)
    orphaned.wait()  # for dvc alone: its output stays open in the stage
    said = dvc(root, *again[3:])
    assert "an earlier process still runs sft@small; waiting for it to end" in said
    assert "Traceback" not in orphaned.communicate()[0]
    assert weights(root) == expected


def test_dvc_sees_nothing_of_what_a_kill_left(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = Path(shutil.copytree(built(tmp_path_factory), tmp_path / "repository"))
    for place in ("runs/small/.sft.123.part/model.safetensors", "responses/small/sft/.toy_id.jsonl.123.part"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text("half")
    assert json.loads(dvc(root, "status", "--json")) == {}


def test_a_full_disk(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    room = ("unshare", "--mount", "--map-root-user")
    if subprocess.run([*room, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small file system in a namespace of their own")
    root = Path(shutil.copytree(built(tmp_path_factory), tmp_path / "repository"))
    shutil.rmtree(root / "runs/small/sft")
    (root / ".resume").mkdir(exist_ok=True)
    small = "mount -t tmpfs -o size=100k none .resume && exec python -m stages.on_rows small sft sft.py base"
    ran = subprocess.run(
        [*room, "sh", "-c", small], cwd=root, env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: the disk is full (")
    assert ran.stderr.endswith("free some space and run the same command to continue\n")
    assert not (root / "runs/small/sft").exists()
    assert not left_aside(root)


# --- minutes ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_clones_give_the_same_bytes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = make(tmp_path / "repository")
    dvc(root, "repro")
    reference = built(tmp_path_factory)
    assert results(root) == results(reference)
    assert weights(root) == weights(reference)


@pytest.mark.slow
def test_soak(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """25 kills at random moments; the pipeline begins anew whenever it got through."""
    reference = built(tmp_path_factory)
    moments = random.Random(0)
    root = make(tmp_path / "0")
    kills = 0
    while kills < 25:
        process = start(root, sys.executable, "-m", "dvc", "repro")
        number = moments.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        time.sleep(moments.uniform(1, 20))
        if process.poll() is None:
            os.killpg(process.pid, number)
            kills += 1
        said = process.communicate(timeout=120)[0]
        clear_leftovers(root)  # as `make repro` does: the kill may have fallen into DVC's writing of dvc.lock
        if process.returncode == 0:
            assert results(root) == results(reference)
            root = make(tmp_path / str(kills))
        else:
            assert "Traceback" not in said, said
    dvc(root, "repro")
    assert results(root) == results(reference)
    assert weights(root) == weights(reference)
