"""Other machines that train the same model: the hostfile that names them, and how their processes are started over ssh.

Run as a program this is the other end: it runs the processes of its host and ends with the connection. Standard input
brings one line of orders (JSON), then signals to pass on, one a line. Orders do not travel on the command line, where
every user of the host could read what the environment holds.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.parallel.group import Group, Place, say, wait_until
from distill.project.errors import SettingsError
from distill.project.running import alone

_FORM = "`<host> slots=<processes>`, with `devices=0,1` after it where not the first GPUs of the host are meant"
# What belongs to one machine or one login; everything else travels: libraries, proxies, keys, this project's own.
_STAYS = frozenset(
    {"HOME", "USER", "LOGNAME", "MAIL", "SHELL", "PWD", "OLDPWD", "SHLVL", "_", "TERM", "DISPLAY", "HOSTNAME", "HOST"}
    | {"TMPDIR", "TMP", "TEMP", "CUDA_VISIBLE_DEVICES"}
)
_STAYS_PREFIXES = ("SSH_", "XDG_", "DBUS_", "SLURM_", "LC_", "PREFECT__")
# Notice a host that does not answer, at the start or later, in seconds instead of the system's minutes.
_PATIENCE = ("ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=6")
_EXIT_SSH = 255
_SECONDS_TO_END = 8.0


@dataclass(frozen=True)
class Host:
    """A line of a hostfile."""

    name: str
    slots: int
    devices: str | None = None
    """CUDA_VISIBLE_DEVICES there."""

    def is_here(self) -> bool:
        """Whether the name is one of this machine."""
        if self.name in (socket.gethostname(), socket.getfqdn()):
            return True
        try:
            with socket.socket(socket.AF_INET6 if ":" in (found := _address(self.name)) else socket.AF_INET) as tried:
                tried.bind((found, 0))  # only an address of this machine can be
        except OSError:
            return False
        return True


def read_hostfile(path: Path) -> list[Host]:
    """Hosts in the order of the file, in DeepSpeed's and MPI's form; the first one is where the stage is started.

    Raises: SettingsError naming the line.
    """
    if not path.is_file():
        raise SettingsError(f"hardware.hostfile: {path} does not exist; write a line {_FORM} for each host")
    hosts: list[Host] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, *settings = words
        given = dict(word.split("=", 1) for word in settings if "=" in word)
        slots, devices = given.pop("slots", ""), given.pop("devices", None)
        if given or len(settings) > 2 or any("=" not in w for w in settings) or not slots.isdigit() or int(slots) < 1:
            raise SettingsError(f"{path}:{number}: `{line.strip()}` is no host; write {_FORM}")
        if name.startswith("-"):
            raise SettingsError(f"{path}:{number}: `{name}` is an option of ssh, no host; write {_FORM}")
        if name in (host.name for host in hosts):
            raise SettingsError(f"{path}:{number}: `{name}` stands there twice; give it one line with all its slots")
        if devices is not None and len(set(filter(None, devices.split(",")))) < int(slots):
            raise SettingsError(f"{path}:{number}: {slots} processes need as many devices, and `{devices}` are fewer")
        hosts.append(Host(name, int(slots), devices))
    if not hosts:
        raise SettingsError(f"{path} names no host; write a line {_FORM} for each")
    return hosts


def meeting_place(hosts: Sequence[Host]) -> str:
    """The name under which all hosts reach this machine: the first host's, unless each would take it for itself."""
    first, *others = hosts
    if not first.is_here():
        return socket.gethostname()
    if is_loopback(first.name) and not all(is_loopback(host.name) for host in others):
        try:
            _address(socket.gethostname())
        except OSError:
            return first.name
        return socket.gethostname()
    return first.name


class Reached:
    """The processes of another host, over a connection with which they end."""

    def __init__(self, arguments: Sequence[str], host: Host, place: Place, environment: Mapping[str, str]) -> None:
        """Start them, in the same folder with the same interpreter."""
        self.host = host
        folder, python = shlex.quote(str(Path.cwd())), shlex.quote(sys.executable)
        there = f"cd {folder} || exit 127; exec {python} -m distill.parallel.hosts"
        options = [word for option in ("BatchMode=yes", *_PATIENCE) for word in ("-o", option)]
        self.process = subprocess.Popen(
            ["ssh", "-T", *options, host.name, there],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
        )
        orders = {
            "environment": travelling(environment, host),
            "arguments": list(arguments),
            "place": dataclasses.asdict(place),
        }
        self._write(json.dumps(orders))

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # `poll` says that it has ended
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def poll(self) -> int | None:
        """As `Group.poll`."""
        code = self.process.poll()
        if code in (None, 0):
            return code
        if code == _EXIT_SSH:
            say(
                f"host {self.host.name} cannot be reached, or the connection was lost (ssh's own words are above); "
                f"mend that until `ssh {self.host.name} true` works, or take it out of the hostfile, then run the same "
                "command again"
            )
        elif code in (126, 127):
            say(
                f"host {self.host.name} has no {Path.cwd()} or no {sys.executable}; put the clone with its .venv on a "
                "file system that all hosts share"
            )
        elif code < 0:
            ended = f"was ended by {signal.Signals(-code).name}"
            say(f"ssh to host {self.host.name} {ended}; run the same command to continue")
        return code if code > 0 else 1

    def ask(self, number: int) -> None:
        """As `Group.ask`."""
        self._write(str(int(number)))

    def end(self) -> None:
        """End the processes, by ending the connection."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if not wait_until(lambda: self.process.poll() is not None, _SECONDS_TO_END):
            self.process.kill()
        self.process.wait()


def travelling(environment: Mapping[str, str], host: Host) -> dict[str, str]:
    """The part of an environment that another host gets, with the devices to use there."""
    kept = {n: v for n, v in environment.items() if n not in _STAYS and not n.startswith(_STAYS_PREFIXES)}
    devices = host.devices
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if devices is None and visible is not None and all(name.strip().isdigit() for name in visible.split(",")):
        devices = visible  # numbers mean the same everywhere; the UUIDs of a lease are this machine's
    return kept if devices is None else kept | {"CUDA_VISIBLE_DEVICES": devices}


def _address(name: str) -> str:
    return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])


def is_loopback(name: str) -> bool:
    """Whether only this machine knows itself by that name."""
    try:
        return ipaddress.ip_address(_address(name)).is_loopback
    except OSError:
        return False


class _Line:
    """The launcher's end of standard input: signals that arrived, and whether it is closed."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.closed, self.waiting = False, True
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.signals.append(int(line))
        self.closed = True
        if self.waiting:  # for an earlier run to end; nothing is started yet
            os._exit(1)


def main() -> int:
    """The other end: run the processes that the first line of standard input asks for; their exit code."""
    orders: dict[str, Any] = json.loads(sys.stdin.readline())
    os.environ.update(orders["environment"])
    place, line = Place(**orders["place"]), _Line()
    with alone(place.host):
        line.waiting = False
        group = Group(orders["arguments"], place, os.environ)
        try:
            while (code := group.poll()) is None and not line.closed:
                while line.signals:
                    group.ask(line.signals.pop(0))
                time.sleep(0.1)
        finally:
            group.end()
    return 1 if code is None else code


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher passes it on
    raise SystemExit(main())
