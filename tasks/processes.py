"""Commands whose process tree ends with this process, and whose output arrives line by line."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tasks.loopback import direct_loopback

DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
"""The command line of DVC: without the flag, parallel calls fail on its lock."""
_SUPERVISOR = Path(__file__).with_name("supervise.py")
_NEVER_INHERITED = ("PREFECT__", "DVC_STAGE", "DVC_ROOT")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of DVC and stages: this interpreter first on PATH, no telemetry, no proxy to this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NEVER_INHERITED)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    own = {"PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", **direct_loopback(kept)}
    return {**kept, **own, **(extra or {})}


class Command:
    """One command under `tasks/supervise.py`: it cannot outlive this object's process."""

    def __init__(
        self, command: Sequence[str], cwd: Path, extra: Mapping[str, str], descriptors: Sequence[int] = ()
    ) -> None:
        """Start `command` in `cwd`; it keeps `descriptors` (held locks) open while it lives."""
        self._process = subprocess.Popen(
            [sys.executable, str(_SUPERVISOR), *command],
            cwd=cwd,
            env=environment(extra),
            stdin=subprocess.PIPE,  # the lifeline
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal reaches this process, which then stops the command
            pass_fds=tuple(descriptors),
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # A thread of its own, so that a slow reader (the server is away) never blocks the stage.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            # Progress bars redraw with a carriage return: keep the last drawing of a line.
            line = raw.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2].rstrip()
            if line:
                self._lines.put(line)
        self._lines.put(None)

    def lines(self, every: float) -> Iterator[str | None]:
        """Lines as they come, None whenever `every` seconds passed without one, until the output ends."""
        while True:
            try:
                line = self._lines.get(timeout=every)
            except queue.Empty:
                yield None
            else:
                if line is None:
                    return
                yield line

    def stop(self) -> None:
        """Begin to end the command and everything below it; returns at once."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()

    def wait(self) -> int:
        """Wait until nothing of the command is left; its exit code."""
        code = self._process.wait()
        self.stop()
        return code
