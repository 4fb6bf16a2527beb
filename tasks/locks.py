"""The lock of a clone: one rebuild at a time, and the name of its holder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tasks.mappings import read_mapping

_LOCK = Path(".dvc/tmp/rebuild.lock")
_SECONDS_BETWEEN_NOTES = 30.0


@dataclass(frozen=True)
class Holder:
    """The holder of a clone's lock."""

    pid: int
    host: str
    started: str
    flow_run: str
    """Id of the Prefect flow run."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started} (flow run {self.flow_run})"


@dataclass(frozen=True)
class Clone:
    """A clone whose lock this process holds."""

    root: Path
    descriptor: int
    """The lock; stages inherit it, so that the clone is free only when the last of them is gone."""
    left_behind: Holder | None
    """The holder before, if it died without releasing the lock."""


@contextlib.contextmanager
def hold_clone(
    root: Path, flow_run: str, say: Callable[[str], None], stopped: Callable[[], bool]
) -> Iterator[Clone | None]:
    """Lock the clone at `root`; name its holder while waiting; None if `stopped()` meanwhile."""
    path = root / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _wait(descriptor, path, say, stopped):
            yield None
            return
        before = _read_holder(path)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        _write(descriptor, json.dumps(asdict(Holder(os.getpid(), socket.gethostname(), now, flow_run))))
        try:
            yield Clone(root, descriptor, before)
        finally:
            _write(descriptor, "")
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: Path, say: Callable[[str], None], stopped: Callable[[], bool]) -> bool:
    said = 0.0
    while not stopped():
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if not said or time.monotonic() - said > _SECONDS_BETWEEN_NOTES:
            holder = _read_holder(path)
            state = (
                "" if holder is None or psutil.pid_exists(holder.pid) else "; it died and its stages are being ended"
            )
            say(f"Waiting for this clone, held by {holder or 'a run that is starting or ending'}{state}.")
            said = time.monotonic()
        time.sleep(0.3)
    return False


def _read_holder(path: Path) -> Holder | None:
    with contextlib.suppress(TypeError):  # cut off by a power failure: nobody to name
        return Holder(**read_mapping(path))
    return None


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
