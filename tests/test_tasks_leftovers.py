"""What a killed DVC leaves in a clone, and that the next run mends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.leftovers import clear_dead_entries, clear_leftovers
from tests.small_repository import change, commit, dvc, ran

pytest_plugins = ["tests.prefect_fixtures"]


def test_only_dead_entries_leave_dvcs_lock_file(tmp_path: Path) -> None:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    rwlock = tmp_path / ".dvc/tmp/rwlock"
    dead = subprocess.Popen(["true"])
    dead.wait()
    # A living process whose command line names dvc, as `python -m dvc repro` does.
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # dvc"])
    gone, here = {"pid": dead.pid, "cmd": "dvc repro a"}, {"pid": living.pid, "cmd": "dvc repro b"}
    stranger = {"pid": os.getppid(), "cmd": "dvc repro c"}  # the number was given to somebody else since
    rwlock.write_text(json.dumps({"write": {"/x": gone, "/y": here}, "read": {"/z": [gone, here], "/w": [stranger]}}))
    try:
        assert [line.split("(")[1].split(")")[0] for line in clear_dead_entries(tmp_path)] == [
            cmd for _, cmd in sorted([(dead.pid, "dvc repro a"), (os.getppid(), "dvc repro c")])
        ]
        assert json.loads(rwlock.read_text()) == {"write": {"/y": here}, "read": {"/z": [here]}}
        assert clear_dead_entries(tmp_path) == []
    finally:
        living.kill()
        living.wait()


def test_a_cut_off_lock_file_is_removed(tmp_path: Path) -> None:
    assert clear_dead_entries(tmp_path) == []
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text('{"write": {"/x"')
    assert "cut off" in clear_dead_entries(tmp_path)[0]
    assert not (tmp_path / ".dvc/tmp/rwlock").exists()


@pytest.mark.parametrize("left", [0.0, 0.5, 0.98])
def test_a_cut_off_dvc_lock_is_the_commits_again(repository: Path, left: float) -> None:
    dvc(repository, "repro")
    commit(repository, "Build")
    change(repository, "left: 1", "left: 2")
    dvc(repository, "repro")
    before, log = (repository / "dvc.lock").read_text(), ran(repository)
    assert clear_leftovers(repository) == []
    assert (repository / "dvc.lock").read_text() == before

    cut_off(repository / "dvc.lock", left)
    (said,) = clear_leftovers(repository)
    assert said.startswith("dvc.lock was cut off by a kill: it is the commit's again")
    dvc(repository, "repro")
    assert (repository / "dvc.lock").read_text() == before
    assert ran(repository) == log, "all of it came from the run cache"


def test_a_cut_off_dvc_lock_that_was_never_committed_is_removed(repository: Path) -> None:
    dvc(repository, "repro")
    before, log = (repository / "dvc.lock").read_text(), ran(repository)
    cut_off(repository / "dvc.lock", 0.5)
    (said,) = clear_leftovers(repository)
    assert said.startswith("dvc.lock was cut off by a kill: removed it")
    assert not (repository / "dvc.lock").exists()
    dvc(repository, "repro")
    assert (repository / "dvc.lock").read_text() == before
    assert ran(repository) == log


def cut_off(path: Path, left: float) -> None:
    """Leave so much of a YAML file, ending in the middle of a value."""
    whole = path.read_text()
    path.write_text(whole[: int(len(whole) * left)] + ("\n  a: [" if left else ""))
