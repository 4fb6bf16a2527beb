"""One run of a stage at a time, and no process of a run without its launcher.

A stage in several processes is a launcher and the processes it starts (`distill/parallel/launch.py`). These inherit the
launcher's lock on the stage, so that the stage is free when the last of them is gone. Standard library only: this runs
before any other import.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARENT = "DISTILL_PARENT"
"""The process id of the launcher, for the processes it starts on its machine."""
_SRUN = "DISTILL_SRUN"
_FOLDER = Path(".resume/running")
_PR_SET_PDEATHSIG = 1
_descriptors: list[int] = []


def is_started() -> bool:
    """Whether a launcher has started this process, as one of several or as DeepSpeed's only one."""
    return "WORLD_SIZE" in os.environ


def speaks() -> bool:
    """Whether this process speaks for all processes of the stage: only the first does."""
    return os.environ.get("RANK", "0") == "0"


def held_locks() -> tuple[int, ...]:
    """Descriptors of the locks that this process holds, for its children to inherit."""
    return tuple(_descriptors)


def begin() -> None:
    """Take this process's place among several, and end when its launcher ends; call this before all else."""
    if _SRUN in os.environ and not is_started():
        _take_up_srun()
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    if sys.platform == "linux":
        # The kernel sends the signal: it also ends a process that is frozen, or that computes without end.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(1)  # it was gone before this


@contextmanager
def alone(host: str = "") -> Iterator[None]:
    """Wait for an earlier run of this DVC stage: when `dvc` alone was killed, its process may still be writing.

    `host` names a machine of the hostfile. Each machine has a lock of its own, since not every shared file system
    carries locks between machines.
    """
    stage = os.environ.get("DVC_STAGE")
    if stage is None or is_started():
        yield
        return
    _FOLDER.mkdir(parents=True, exist_ok=True)
    # The system releases the lock when the last process that holds it ends, even by SIGKILL.
    with (_FOLDER / (f"{stage}.{host}" if host else stage)).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            where = f" on {host}" if host else ""
            print(f"an earlier process still runs {stage}{where}; waiting for it to end", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        _descriptors.append(lock.fileno())
        try:
            yield
        finally:
            _descriptors.remove(lock.fileno())


def srun_variables() -> dict[str, str]:
    """Environment variables that tell the processes of `srun` to take their places."""
    return {_SRUN: "1"}


def _take_up_srun() -> None:
    """Translate Slurm's variables for a process's place into torch's."""
    given = os.environ
    local = given["SLURM_LOCALID"]
    if len([name for name in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]) == 1:
        local = "0"  # Slurm shows each process its own GPU alone
    given.update(WORLD_SIZE=given["SLURM_STEP_NUM_TASKS"], RANK=given["SLURM_PROCID"], LOCAL_RANK=local)
