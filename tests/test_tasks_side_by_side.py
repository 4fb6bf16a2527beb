"""How `make repro` runs DVC: independent stages at once, nothing below a failure, Ctrl-C in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.small_repository import ROOT, change, dvc, ran, until

pytest_plugins = ["tests.prefect_fixtures"]


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a small repository, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.side_by_side", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output, once it has ended."""
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def test_builds_everything_then_nothing(repository: Path) -> None:
    code, said = finished(start(repository))
    assert code == 0, said
    assert dvc(repository, "status").strip() == "Data and pipelines are up to date."
    assert sorted(ran(repository)) == ["first", "last", "left", "right"]
    assert "5 stages brought up to date, 0 were" in said
    assert "Running stage" not in said  # DVC's own chatter

    code, said = finished(start(repository))
    assert (code, len(ran(repository))) == (0, 4)
    assert "0 stages brought up to date, 5 were" in said


def test_a_failure_stops_only_what_is_below_it(repository: Path) -> None:
    (repository / "broken-left.txt").touch()
    (repository / "broken-left").touch()
    code, said = finished(start(repository))
    assert code == 1
    assert "error: the data is wrong; mend it" in said
    assert "left failed, see above; correct it and run the same command" in said
    assert "right" in ran(repository)
    assert "last" not in ran(repository)
    assert "Traceback" not in said


def test_ctrl_c_leaves_no_orphan_and_the_next_run_continues(repository: Path) -> None:
    change(repository, "left: 1", "left: 60")
    process = start(repository)
    until(lambda: "left" in ran(repository))
    process.send_signal(signal.SIGINT)
    code, said = finished(process)
    assert code == 130
    assert "run the same command to continue" in said
    worker = int(
        next(line for line in (repository / "log.txt").read_text().splitlines() if line[:4] == "left").split()[2]
    )
    assert not Path(f"/proc/{worker}").exists()
    change(repository, "left: 60", "left: 1")
    assert finished(start(repository))[0] == 0


def test_another_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    code, said = finished(start(tmp_path))
    assert code == 2
    assert said == f"error: {tmp_path} holds no pipeline (no dvc.yaml); run this in the folder of the clone\n"
    assert not list(tmp_path.iterdir())


def test_a_dvc_lock_that_a_kill_cut_off_is_mended(repository: Path) -> None:
    assert finished(start(repository))[0] == 0
    log, lock = ran(repository), repository / "dvc.lock"
    lock.write_text(lock.read_text()[:300] + "\n  a: [")
    code, said = finished(start(repository))
    assert code == 0, said
    assert "dvc.lock was cut off by a kill" in said
    assert ran(repository) == log, "all of it came from the run cache"
