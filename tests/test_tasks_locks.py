"""One rebuild per clone, and who held it before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tasks.locks import hold_clone


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
