"""A stage that starts itself again, for tests of the launcher: its argument says what it does, HARDWARE on what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from distill.parallel.group import end_worker
from distill.parallel.launch import HALVINGS, relaunch_if_asked
from distill.project.errors import DataError, run_stage
from distill.runs.hardware import HardwareSettings

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Say who this process is; then end as the argument wants."""
    wanted = sys.argv[1]
    relaunch_if_asked(HardwareSettings.model_validate_json(os.environ.get("HARDWARE", '{"processes": 2}')))
    rank, halvings = os.environ["RANK"], os.environ.get(HALVINGS, "0")
    Path(f"{wanted}-{halvings}-{rank}-of-{os.environ['WORLD_SIZE']}").touch()
    if wanted == "refused" and rank == "1":
        raise DataError("there is a fault; mend it")
    if wanted == "memory" and halvings != "2" and rank == "1":
        raise SystemExit(75)
    if wanted in ("killed", "frozen") and rank == "1":
        os.kill(os.getpid(), signal.SIGKILL if wanted == "killed" else signal.SIGSTOP)
    if wanted == "odd" and rank == "1":
        os._exit(7)
    if wanted == "environment":
        seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OURS", "TERM")}
        Path(f"environment-{rank}.json").write_text(json.dumps(seen))
    if wanted == "met":
        from distill.parallel.meeting import one_voice  # torch takes seconds to import
        from distill.parallel.processes import joined_processes

        with one_voice(), joined_processes() as processes:
            assert processes.joined([processes.rank] * 3) == list(range(processes.count)) * 3
            if "WAIT" in os.environ:
                Path("waiting").touch()
                time.sleep(float(os.environ["WAIT"]))
            if os.environ.get("FAULT") == rank:
                raise ValueError("an odd thing\nin two lines")
            if os.environ["MASTER_ADDR"] == "127.0.0.1":  # on one machine nobody else is to reach them
                open_ones = [c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
                assert set(open_ones) == {"127.0.0.1"}
            processes.wait()
    elif wanted == "endless" or (rank == "0" and wanted not in ("sound", "environment") and halvings != "2"):
        time.sleep(60)  # as one that waits for the other
        Path("finished").touch()
    end_worker()


def started(wanted: str, hardware: Mapping[str, object] | None = None, **variables: str) -> subprocess.Popen[str]:
    path = f"{Path.cwd()}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **variables}
    if hardware is not None:
        environment["HARDWARE"] = json.dumps(dict(hardware))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.launched_stage", wanted],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int) -> str:
    """What a process has said, that ends with `code`, and leaves nothing behind."""
    said = process.communicate(timeout=120)[1]
    assert process.returncode == code, said
    wait_for(lambda: not running())
    return said


def running() -> list[int]:
    """The processes that work in this test's folder, but for this one."""
    found = psutil.process_iter(["pid", "cwd", "status"])
    here = [p.info for p in found if p.info["cwd"] == str(Path.cwd()) and p.info["status"] != psutil.STATUS_ZOMBIE]
    return [info["pid"] for info in here if info["pid"] != os.getpid()]


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def write_program(name: str, text: str) -> None:
    Path(name).write_text(text)
    Path(name).chmod(0o755)


def seen() -> list[str]:
    return sorted(path.name for path in Path().glob("*-of-*"))


if __name__ == "__main__":
    run_stage(main)
