"""Run one command so that no process of it outlives its starter. Standard library only.

    python tasks/supervise.py COMMAND [ARGUMENT …]

Its standard input is a lifeline: when it closes, because the parent closed it or died, every process below the
command, in any session or group, is interrupted, then terminated, then killed.
Descriptors from the parent (locks on devices and on the clone) stay open until then, so that the kernel frees
the locks at the right moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

# Seconds that each signal gets before the next one: together well under the 10 s a cancel may take.
_ESCALATION = ((signal.SIGINT, 3.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))
_PR_SET_CHILD_SUBREAPER = 36


def supervise(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; its exit code, 130 when it was stopped."""
    if sys.platform == "linux":
        # Orphans become our children, so that torchrun's workers, which leave the group, are found.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, close_fds=False)
    threading.Thread(target=_watch_lifeline, args=(stopped,), daemon=True).start()
    while child.poll() is None and not stopped.wait(0.05):
        pass
    code = child.poll()
    _end_everything(child)
    return 130 if code is None else code


def _watch_lifeline(stopped: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    stopped.set()


def _end_everything(child: subprocess.Popen[bytes]) -> None:
    for number, seconds in _ESCALATION:
        deadline = time.monotonic() + seconds
        signalled: set[int] = set()
        while living := _descendants(child):
            for pid in living - signalled:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            signalled |= living
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return


def _descendants(child: subprocess.Popen[bytes]) -> set[int]:
    """Every living process below this one; the dead among our own children are reaped on the way."""
    child.poll()
    if sys.platform != "linux":
        return set() if child.returncode is not None else {child.pid}
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                pid = int(entry.name)
                if state == "Z" and int(parent) == os.getpid() and pid != child.pid:
                    os.waitpid(pid, os.WNOHANG)
                elif state != "Z":
                    parents[pid] = int(parent)
    found, size = {os.getpid()}, 0
    while len(found) != size:  # until a generation has no children
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found - {os.getpid()}


if __name__ == "__main__":
    raise SystemExit(supervise(sys.argv[1:]))
