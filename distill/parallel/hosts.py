"""A hostfile: the machines that train one model together, in the form of DeepSpeed and MPI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.project.errors import SettingsError


@dataclass(frozen=True)
class Host:
    """A line of a hostfile."""

    name: str
    slots: int


def read_hostfile(path: Path) -> list[Host]:
    """Hosts in the order of the file, in DeepSpeed's and MPI's form; the first one is where the stage is started.

    Raises: SettingsError naming the line.
    """
    if not path.is_file():
        raise SettingsError(
            f"hardware.hostfile: {path} does not exist; write a line `<host> slots=<processes>` for each"
        )
    hosts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        slots = words[1].removeprefix("slots=") if len(words) == 2 else ""
        if not slots.isdigit() or int(slots) < 1:
            raise SettingsError(f"{path}:{number}: `{line.strip()}` is no host; write `<host> slots=<processes>`")
        hosts.append(Host(words[0], int(slots)))
    if not hosts:
        raise SettingsError(f"{path} names no host; write a line `<host> slots=<processes>` for each")
    return hosts
