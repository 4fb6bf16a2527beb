"""Where the processes of a stage meet: a store that the launcher holds, and what each process does with it.

The launcher listens before it starts anything, so no other program can take the port meanwhile, and nothing listens
when it is gone. Through the store the processes find each other, agree who tells of a fault, and notice that the
launcher is no more.
"""

from __future__ import annotations

import datetime
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from distill.parallel.group import EXIT_SAID, end_worker, say
from distill.project.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    DisagreementError,
    DistillError,
    DivergedError,
    SettingsError,
    Terminated,
    full_disk_message,
    is_full_disk,
)
from distill.project.foreign import is_out_of_memory
from distill.project.running import is_started

LOOPBACK = "127.0.0.1"
# After so long without an answer the launcher's machine counts as gone. A launcher that has ended is noticed at once.
_TIMEOUT = datetime.timedelta(minutes=5)
_LOOK_EVERY = 1.0
_SECONDS_TO_REACH = 20.0
_CODE = "exit code"
# Seconds in which the launcher ends a process whose connection to another was lost, if that one has failed.
_CAUSE_ELSEWHERE = 15.0
_LOST_CONNECTION = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Socket closed")


@dataclass(frozen=True)
class Meeting:
    """The launcher's side."""

    port: int
    store: TCPStore

    def told(self) -> int | None:
        """The exit code of the process that has said what went wrong, if one has."""
        return int(self.store.get(_CODE)) if self.store.check([_CODE]) else None


@contextmanager
def meeting(port: int | None, everywhere: bool) -> Iterator[Meeting]:
    """Hold the store while inside; it listens on `port` if that is given.

    It listens on loopback alone unless the processes are on several machines.

    Raises: SettingsError when the port is taken.
    """
    try:
        if everywhere and socket.has_dualstack_ipv6():
            listening = socket.create_server(("", port or 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            listening = socket.create_server(("" if everywhere else LOOPBACK, port or 0))
    except OSError as error:
        raise SettingsError(
            f"hardware.port: {port or 'any'} cannot be had on {socket.gethostname()} ({error.strerror}); "
            "name another, or leave it out to have a free one chosen"
        ) from None
    taken = int(listening.getsockname()[1])
    store = TCPStore(LOOPBACK, taken, None, True, _TIMEOUT, wait_for_workers=False, master_listen_fd=listening.detach())
    yield Meeting(taken, store)


class Member:
    """One process at the meeting, the one we are. One that no launcher of ours has started is there alone."""

    def __init__(self) -> None:
        """Connect, and end this process from now on when the launcher is gone.

        Raises: SystemExit, after a sentence, when the launcher cannot be reached.
        """
        self.rank, self.count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.store: TCPStore | None = None
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            self.store = self._connected()
            if os.environ["MASTER_ADDR"] != LOOPBACK or sys.platform != "linux":  # there the kernel sees to it
                threading.Thread(target=self._end_with_launcher, args=(self._connected(),), daemon=True).start()

    def _connected(self) -> TCPStore:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:  # torch would try for many minutes, and then show its own inside
            socket.create_connection((address, port), _SECONDS_TO_REACH).close()
        except OSError as error:
            say(
                f"{self.name} cannot reach {address}:{port}, where the processes meet ({error}); open that port "
                "(hardware.port fixes it), or call the first host by the name that the others know"
            )
            raise SystemExit(EXIT_SAID) from None
        return TCPStore(address, port, None, False, _TIMEOUT)

    @staticmethod
    def _end_with_launcher(store: TCPStore) -> None:
        with suppress(RuntimeError):
            while True:
                store.add("alive", 0)
                time.sleep(_LOOK_EVERY)
        os.kill(os.getpid(), signal.SIGKILL)  # whatever it is in the middle of, as if the machine had gone

    def tells(self, code: int) -> bool:
        """Whether this is the first process that has something to tell; then it will end with `code`."""
        try:
            if self.store is None or self.store.add("told", 1) > 1:
                return self.store is None
            self.store.set(_CODE, str(code))
        except RuntimeError:
            pass  # the launcher is gone
        return True

    def silent(self) -> list[int]:
        """The processes that have not lost a connection, when this one has: those the others waited for."""
        if self.store is None:
            return []
        self.store.set(f"lost/{self.rank}", "")
        time.sleep(_CAUSE_ELSEWHERE)  # the launcher ends this process meanwhile, if another one has failed
        return [rank for rank in range(self.count) if not self.store.check([f"lost/{rank}"])]

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"process {self.rank} of {self.count} on {socket.gethostname()}"


@contextmanager
def one_voice() -> Iterator[None]:
    """Around a process's work: of all that fail, the first says what happened, with its name, before any traceback.

    The others end because it did, and say nothing. In an ordinary process nothing changes.
    """
    if not is_started():
        yield
        return
    member = Member()
    try:
        yield
    except SystemExit as end:
        member.tells(int(end.code or 0))
        end_worker(int(end.code or 0))
    except (KeyboardInterrupt, Terminated) as stop:  # the launcher says so, once for all
        end_worker(EXIT_INTERRUPTED if isinstance(stop, KeyboardInterrupt) else EXIT_TERMINATED)
    except DistillError as error:
        if member.tells(EXIT_BAD_INPUT):
            found_by_all = isinstance(error, (DivergedError, DisagreementError))
            say(str(error) if found_by_all else f"{member.name}: {error}")
        end_worker(EXIT_BAD_INPUT)
    except Exception as error:  # noqa: BLE001  (a bug keeps its traceback, after a sentence)
        _tell(member, error)
        end_worker(EXIT_SAID)


def _tell(member: Member, error: Exception) -> None:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, DistError) or any(word in text for word in _LOST_CONNECTION):
        silent = member.silent()
        if not member.tells(EXIT_SAID):
            return
        others = f"process {' and '.join(map(str, silent))}" if silent else "the others"
        say(
            f"{member.name} waited in vain for {others} ({text}); look there for a fault, "
            "then run the same command to continue from the last stored state"
        )
    elif not member.tells(EXIT_SAID):
        return
    elif is_full_disk(error):
        say(f"{member.name}: {full_disk_message(error)}")
        return
    elif is_out_of_memory(error):
        say(
            f"{member.name}: memory does not suffice ({text}); lower hardware.micro_batch or hardware.decode_batch, or "
            "divide the models (hardware.zero_stage, hardware.teacher), then run the same command to continue"
        )
        return
    else:
        say(f"{member.name} failed: {type(error).__name__}: {text}")
    traceback.print_exc()
