"""A training stage starts itself again as several processes, when its profile asks for more than one.

The command that DVC knows stays `python -m stages.<stage> …` on every machine. This process is then the launcher: it
holds the stage's lock and the store where the others meet, starts them here, over ssh or with `srun`, watches all of
them at once, and ends with what the first one that failed had to say.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from distill.parallel.faults import process_count
from distill.parallel.group import EXIT_OUT_OF_MEMORY, EXIT_SAID, Group, Place
from distill.parallel.hosts import Host, Reached, is_loopback, meeting_place, read_hostfile
from distill.parallel.slurm import Started
from distill.project.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from distill.project.foreign import is_out_of_memory
from distill.project.running import is_started
from distill.runs.hardware import HardwareSettings

HALVINGS = "DISTILL_MICRO_BATCH_HALVINGS"
"""How often memory did not suffice: the micro-batch of a stage is divided by two so many times."""
_LOOK_EVERY = 0.1
# Seconds that processes have to end after they were asked to at once, by a second signal.
_AT_ONCE = 10.0


def relaunch_if_asked(hardware: HardwareSettings) -> None:
    """Return at once in one ordinary process and in a started one; otherwise run the stage and exit with its code.

    Raises: SettingsError for a hostfile or port that cannot be used; KeyboardInterrupt or Terminated when the
    processes have ended after such a signal; SystemExit.
    """
    if is_started():
        return
    hosts = read_hostfile(Path(hardware.hostfile)) if hardware.hostfile else []
    processes = process_count(hardware)
    if not hosts and processes == 1 and hardware.zero_stage is None:
        return
    while True:
        code = run(sys.orig_argv[1:], processes, hosts, hardware.processes == "slurm", hardware.port)
        if code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        if code == EXIT_TERMINATED:
            raise Terminated
        if code != EXIT_OUT_OF_MEMORY:
            raise SystemExit(1 if code == EXIT_SAID else code)
        os.environ[HALVINGS] = str(int(os.environ.get(HALVINGS, "0")) + 1)
        print("out of memory: starting again with half the micro-batch, from the last stored state", file=sys.stderr)


def fitting_micro_batch(hardware: HardwareSettings, share: int) -> int:
    """The micro-batch of a process with `share` rows of each global batch, halved as often as it was too large."""
    micro_batch, halvings = hardware.largest_micro_batch(share), int(os.environ.get(HALVINGS, "0"))
    if not halvings:
        return micro_batch
    most = max(1, micro_batch >> halvings)
    return next(size for size in range(most, 0, -1) if share % size == 0)


@contextmanager
def smaller_next_time(micro_batch: int) -> Iterator[None]:
    """Out of memory where that cannot be mended in place, end in the way that starts a launched stage again."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if micro_batch == 1 or not is_started() or not is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        print(f"out of memory at micro-batch {micro_batch}: {said}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_OUT_OF_MEMORY) from None


class Part(Protocol):
    """Some of the processes: those of this machine, those of another one, or all that `srun` has started."""

    def poll(self) -> int | None:
        """None while they run, 0 when all are done, else an exit code, after a sentence that says what happened."""

    def ask(self, number: int) -> None:
        """Pass a signal on to each of them."""

    def end(self) -> None:
        """End them and wait until they are gone."""


def run(
    arguments: Sequence[str],
    processes: int,
    hosts: Sequence[Host] = (),
    slurm: bool = False,
    port: int | None = None,
) -> int:
    """Run this interpreter with `arguments` in so many connected processes; the exit code of the first that failed.

    Raises: SettingsError when the port is taken.
    """
    from distill.parallel.meeting import LOOPBACK, meeting  # torch takes seconds to import

    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    everywhere = slurm or not all(is_loopback(host.name) for host in hosts)
    parts: list[Part] = []
    with _signals() as asked, meeting(port, everywhere) as met:
        try:
            if slurm:
                address = f"{socket.gethostname()}:{met.port}"
                parts.append(Started(arguments, processes, address, environment, met.told))
            elif hosts:
                parts += _on_hosts(arguments, processes, hosts, met.port, environment)
            else:
                if "lo" in (name for _, name in socket.if_nameindex()):
                    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # or it listens where others may reach it
                parts.append(Group(arguments, Place(0, processes, processes, f"{LOOPBACK}:{met.port}"), environment))
            code = _watch(parts, asked)
            return met.told() or code if code else 0
        finally:
            for part in parts:
                part.end()


def _on_hosts(
    arguments: Sequence[str], processes: int, hosts: Sequence[Host], port: int, environment: Mapping[str, str]
) -> Iterator[Part]:
    """The first host's processes start here, if this is the first host, and the others' over ssh."""
    address, first = f"{meeting_place(hosts)}:{port}", 0
    for number, host in enumerate(hosts):
        place = Place(first, host.slots, processes, address, host.name)
        first += host.slots
        if number == 0 and host.is_here():
            own = {} if host.devices is None else {"CUDA_VISIBLE_DEVICES": host.devices}
            yield Group(arguments, place, {**environment, **own})
        else:
            yield Reached(arguments, host, place, environment)


def _watch(parts: Sequence[Part], asked: list[int]) -> int:
    """Until all are done or one has failed; signals that arrive meanwhile are passed on."""
    deadline = float("inf")
    seen = 0
    while True:
        codes = [part.poll() for part in parts]
        if failed := [code for code in codes if code]:
            return _asked_for(failed[0], asked)
        if all(code == 0 for code in codes):
            return 0
        for number in asked[seen:]:
            for part in parts:
                part.ask(number)
            seen += 1
            if seen == 2:
                deadline = time.monotonic() + _AT_ONCE
        if time.monotonic() > deadline:
            return _asked_for(EXIT_TERMINATED, asked)
        time.sleep(_LOOK_EVERY)


def _asked_for(code: int, asked: Sequence[int]) -> int:
    """The exit code that says how the run was stopped, if it was: srun's processes all hear SIGTERM."""
    return EXIT_INTERRUPTED if code == EXIT_TERMINATED and asked[:1] == [signal.SIGINT] else code


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM are noted: the processes store their state and end, and so do we."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
