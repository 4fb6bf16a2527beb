"""Who runs a stage: one run at a time, and no process of it without the one that has started it.

A stage in several processes is a launcher and those that it started (`distill/parallel/launch.py`). The launcher holds
the stage's lock for all of them; they inherit it, so that the stage is free when the last of them is gone. Standard
library only: this comes before anything is imported.
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
"""The process id of the launcher, for those it has started on its machine."""
_SRUN = "DISTILL_SRUN"
_FOLDER = Path(".resume/running")
_PR_SET_PDEATHSIG = 1
_descriptors: list[int] = []


def is_started() -> bool:
    """Whether this process is one of several, or DeepSpeed's only one, that a launcher has started."""
    return "WORLD_SIZE" in os.environ


def speaks() -> bool:
    """Whether this process says what all processes of a stage have to say: only the first does."""
    return os.environ.get("RANK", "0") == "0"


def held_locks() -> tuple[int, ...]:
    """Descriptors of the locks that this process holds, for those that it starts."""
    return tuple(_descriptors)


def begin() -> None:
    """Take the place that a launcher has given this process, and end with the launcher: called before all else."""
    if _SRUN in os.environ and not is_started():
        _take_up_srun()
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    if sys.platform == "linux":
        # The kernel's word: it also reaches a process that is frozen, or that computes without end.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(1)  # it was gone before this


@contextmanager
def alone(host: str = "") -> Iterator[None]:
    """Wait while another process runs this stage of DVC: one whose `dvc` was killed alone may still be writing.

    `host` is the machine of a hostfile whose processes are guarded; each has a lock of its own, since not every
    shared file system carries locks from one to the other.
    """
    stage = os.environ.get("DVC_STAGE")
    if stage is None or is_started():
        yield
        return
    _FOLDER.mkdir(parents=True, exist_ok=True)
    # The system releases it when the last process that holds it is gone, however it went.
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
    """What makes the processes that `srun` starts take up their places."""
    return {_SRUN: "1"}


def _take_up_srun() -> None:
    """Slurm's names for a process's place, in torch's words."""
    given = os.environ
    local = given["SLURM_LOCALID"]
    if len([name for name in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]) == 1:
        local = "0"  # Slurm shows each process its own GPU alone
    given.update(WORLD_SIZE=given["SLURM_STEP_NUM_TASKS"], RANK=given["SLURM_PROCID"], LOCAL_RANK=local)
