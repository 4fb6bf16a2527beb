"""One rebuild per clone, and what a killed one leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tasks.locks import clear_dead_entries, hold_clone


def test_the_second_waits_and_says_for_whom(tmp_path: Path) -> None:
    said: list[str] = []
    looks = iter([False, False, True])
    with hold_clone(tmp_path, "run-1", said.append, lambda: False) as first:
        assert first is not None
        assert first.left_behind is None
        with hold_clone(tmp_path, "run-2", said.append, looks.__next__) as second:
            assert second is None
    assert len(said) == 1
    assert f"held by process {os.getpid()} on" in said[0]
    assert "(flow run run-1)" in said[0]


def test_a_killed_holder_is_named(tmp_path: Path) -> None:
    code = f"from tasks.locks import hold_clone; from pathlib import Path; import os\n\
with hold_clone(Path({str(tmp_path)!r}), 'run-1', print, lambda: False): os.kill(os.getpid(), 9)"
    killed = subprocess.Popen([sys.executable, "-c", code])
    killed.wait()
    with hold_clone(tmp_path, "run-2", print, lambda: False) as clone:
        assert clone is not None
        assert clone.left_behind is not None
        assert (clone.left_behind.pid, clone.left_behind.flow_run) == (killed.pid, "run-1")
    with hold_clone(tmp_path, "run-3", print, lambda: False) as clone:
        assert clone is not None
        assert clone.left_behind is None, "run-2 let go in order"


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
