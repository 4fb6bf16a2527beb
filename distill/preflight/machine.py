"""The machine, checked before the work: versions, GPUs, memory, disk. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from distill.preflight.findings import Finding, gibibytes

# The libraries that the numbers or the build depend on.
_LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "deepspeed", "peft", "dvc", "prefect")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """One device, in bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Machine:
    """Memory and disk of this machine, in bytes."""

    gpus: tuple[Gpu, ...]
    memory: int
    """Of the machine, or of the container around it."""
    available: int
    disk: int
    """Free, on the disk of the project."""
    cores: int

    @property
    def device_total(self) -> int:
        """The most memory that one process can have: the smallest GPU's, or the machine's."""
        return min((gpu.total for gpu in self.gpus), default=self.memory)

    @property
    def device_free(self) -> int:
        """The most memory that one process can have now, beside other processes."""
        return min((gpu.free for gpu in self.gpus), default=self.available)


def read_machine(root: Path) -> Machine:
    """The machine as it is now, with the disk of `root`."""
    memory = psutil.virtual_memory()
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    total = min(memory.total, limit or memory.total)
    inside = memory.available if limit is None or used is None else max(0, limit - used)
    return Machine(
        gpus=tuple(_gpus()),
        memory=total,
        available=min(memory.available, inside),
        disk=shutil.disk_usage(root).free,
        cores=len(psutil.Process().cpu_affinity()),
    )


def _cgroup(name: str) -> int | None:
    """A number of this container's memory accounting; None without a container or without a limit."""
    path = _CGROUP / name
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _gpus() -> list[Gpu]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return []  # no driver, none that may be run, or no answer from it: a machine without GPUs
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines()]
    return [Gpu(row[0], int(row[1]) * 2**20, int(row[2]) * 2**20) for row in rows if len(row) == 3 and row[1].isdigit()]


def machine_findings(machine: Machine, needed_disk: float) -> list[Finding]:
    """Memory, GPUs and disk; `needed_disk` are the bytes that the work will write."""
    found = [
        Finding("ok", "GPU", f"{number}: {gpu.name}, {gibibytes(gpu.free)} of {gibibytes(gpu.total)} free")
        for number, gpu in enumerate(machine.gpus)
    ] or [Finding("ok", "GPU", "none; stages run on the CPU")]
    memory = f"{gibibytes(machine.available)} of {gibibytes(machine.memory)} free, {machine.cores} cores"
    found.append(Finding("ok", "memory", memory))
    text = f"{gibibytes(machine.disk)} free, the work needs about {gibibytes(needed_disk)}"
    if needed_disk > machine.disk:
        fix = "free some, move the clone, or `dvc cache dir --local` a folder on a larger disk"
        found.append(Finding("stop", "disk", f"{text}; {fix}"))
    elif needed_disk > machine.disk / 2:
        found.append(Finding("warn", "disk", f"{text}; free some before a long run"))
    else:
        found.append(Finding("ok", "disk", text))
    return found


def version_findings(constraints: Path, libraries: Sequence[str] = _LIBRARIES) -> list[Finding]:
    """The interpreter, and the installed libraries against the tested set of versions."""
    found = [Finding("ok", "Python", platform.python_version())]
    pinned = {}
    if constraints.is_file():
        lines = (re.match(r"([\w.-]+)==([\w.]+)", line) for line in constraints.read_text().splitlines())
        pinned = {match[1].lower(): match[2] for match in lines if match}
    other, absent = [], []
    for name in libraries:
        try:
            version = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
            continue
        if pinned.get(name, version) != version:
            other.append(f"{name} {version} (proven: {pinned[name]})")
    if absent:
        found.append(Finding("stop", "libraries", f"{', '.join(absent)} not installed; run `make setup`"))
    if other:
        text = f"{', '.join(other)}; `make setup` installs the set that was run together"
        found.append(Finding("warn", "libraries", text))
    if not (absent or other):
        found.append(Finding("ok", "libraries", "the versions that were run together"))
    return found
