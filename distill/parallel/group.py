"""The processes of one machine: started, watched and ended by one that imports nothing but the standard library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distill.project.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED
from distill.project.running import PARENT, held_locks, is_started

EXIT_OUT_OF_MEMORY = 75
"""How a process that shares its update with others says that its micro-batch was too large."""
EXIT_SAID = 70
"""How a process ends that has said what went wrong, or has left that to the one it happened to."""
HAVE_SPOKEN = (EXIT_BAD_INPUT, EXIT_SAID, EXIT_OUT_OF_MEMORY, EXIT_INTERRUPTED, EXIT_TERMINATED)
"""Exit codes that need no further word."""
# Seconds in which a process may still say what went wrong, when another has failed.
_LAST_WORDS = 1.0
# Seconds a process may be stopped (SIGSTOP) before it counts as frozen.
_FROZEN_AFTER = 20.0
_LOOK_EVERY = 1.0


def end_worker(code: int = 0) -> None:
    """End a started process without the interpreter's clearing up; an ordinary one goes on.

    Threads of the libraries that connected it can abort there, and another exit code would arrive.
    """
    if is_started():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass(frozen=True)
class Place:
    """The processes of one machine among all."""

    first: int
    """Rank of the first of them."""
    here: int
    """How many they are."""
    count: int
    """How many there are on all machines."""
    address: str
    """Host and port where they meet."""
    host: str = ""
    """The machine's name, where there are several."""

    def variables(self, local: int) -> dict[str, str]:
        """What torch, accelerate and DeepSpeed read, for the process `local` of this machine."""
        address, _, port = self.address.rpartition(":")
        numbers = {
            "RANK": self.first + local,
            "LOCAL_RANK": local,
            "WORLD_SIZE": self.count,
            "LOCAL_WORLD_SIZE": self.here,
        }
        return {
            **{name: str(number) for name, number in numbers.items()},
            **meeting_variables(address, port),
            PARENT: str(os.getpid()),
        }


def meeting_variables(address: str, port: str) -> dict[str, str]:
    """Where processes meet: at a store that the launcher holds, in torch's own words for that."""
    return {"MASTER_ADDR": address, "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}


class Group:
    """The processes of this machine. Not one of them lives on when this process is gone."""

    def __init__(self, arguments: Sequence[str], place: Place, environment: Mapping[str, str]) -> None:
        """Start this interpreter with `arguments`, `place.here` times."""
        self.place = place
        self.running = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env={**environment, **place.variables(local)},
                stdin=subprocess.DEVNULL,
                # Ctrl-C in the terminal reaches the launcher, which passes it on once.
                start_new_session=True,
                pass_fds=held_locks(),
            )
            for local in range(place.here)
        ]
        self._looked, self._stopped = time.monotonic(), [0.0] * place.here
        self._asked = False

    def poll(self) -> int | None:
        """None while the processes run, 0 when all have done their work, else the exit code of the first that failed.

        Says which it was and why where the process cannot have said it itself.
        """
        codes = [process.poll() for process in self.running]
        failed = [local for local, code in enumerate(codes) if code]
        if failed:
            # An abort is mostly what a library makes of a connection that another process has lost.
            local = min(failed, key=lambda local: codes[local] == -signal.SIGABRT)
            failure = codes[local] or 1
            if self._asked and failure in (-signal.SIGINT, -signal.SIGTERM):
                return 128 - failure  # before it could answer them in order
            if failure not in HAVE_SPOKEN:
                say(f"{self._name(local)} {_ending(failure)}")
            return failure if failure > 0 else 1
        if (frozen := self._frozen(codes)) is not None:
            say(
                f"{self._name(frozen)} has been stopped (SIGSTOP) for {_FROZEN_AFTER:.0f} s while the others wait; "
                "run the same command to continue from the last stored state"
            )
            return 1
        return 0 if all(code == 0 for code in codes) else None

    def ask(self, number: int) -> None:
        """Pass a signal on to every process."""
        self._asked = True
        for process in self.running:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def end(self) -> None:
        """End every process, and wait until it is gone.

        At once: states are stored aside and renamed, and a process that waits for another hears no other signal.
        """
        wait_until(lambda: all(process.poll() is not None for process in self.running), _LAST_WORDS)
        for process in self.running:
            process.kill()
            process.wait()

    def _name(self, local: int) -> str:
        name = f"process {self.place.first + local} of {self.place.count}"
        return f"{name} on {self.place.host}" if self.place.host else name

    def _frozen(self, codes: Sequence[int | None]) -> int | None:
        """A process that has been stopped for long, while this one was not."""
        now = time.monotonic()
        passed = now - self._looked
        if passed < _LOOK_EVERY or sys.platform != "linux":
            return None
        self._looked = now
        for local, process in enumerate(self.running):
            stopped = codes[local] is None and _is_stopped(process.pid)
            # This process may have been stopped with it: then no more than a moment counts.
            self._stopped[local] = self._stopped[local] + min(passed, 2 * _LOOK_EVERY) if stopped else 0.0
        longest = max(range(len(self._stopped)), key=self._stopped.__getitem__)
        return longest if self._stopped[longest] >= _FROZEN_AFTER else None


def say(text: str) -> None:
    """What a person is to read."""
    print(f"error: {text}", file=sys.stderr, flush=True)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "was killed (SIGKILL), most often for want of memory: lower hardware.micro_batch or hardware.decode_batch, "
            "then run the same command to continue"
        )
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}; run the same command to continue"
    return f"ended with exit code {code}; its own words are above; mend that and run the same command to continue"


def _is_stopped(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state == "T"
