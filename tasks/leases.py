"""Leases of GPUs: one locked file for each device of the machine, freed with its last holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Lease:
    """A CPU slot, or devices, held until `release` and until the last process with the locks is gone."""

    devices: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()

    def release(self) -> None:
        """Give the devices back, as far as this process holds them."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def leases_folder() -> Path:
    """The folder of the device locks: GPU_LEASES, else one folder for everybody on this machine."""
    return Path(os.environ.get("GPU_LEASES") or Path(tempfile.gettempdir()) / "gpu-leases")


@dataclass
class Slots:
    """The share of this machine that one flow run may use at a time."""

    devices: tuple[str, ...]
    """Ids as CUDA_VISIBLE_DEVICES takes them; empty on a machine without GPUs."""
    cpu_slots: int
    """How many stages without a GPU run side by side."""
    folder: Path = field(default_factory=leases_folder)
    """The folder of the lock files; every flow on the machine must use the same."""
    _busy_cpu: int = 0

    @property
    def threads(self) -> int:
        """How many threads a stage on a CPU slot should use, so that stages side by side share the cores."""
        return max(1, len(os.sched_getaffinity(0)) // self.cpu_slots)

    def lease(self, gpus: int) -> Lease | None:
        """Take `gpus` devices, all if the machine has fewer, a CPU slot if it has none; None if they are busy."""
        wanted = min(gpus, len(self.devices))
        if wanted:
            return self._lease_devices(wanted)
        if self._busy_cpu >= self.cpu_slots:
            return None
        self._busy_cpu += 1
        return Lease()

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        if not lease.devices:
            self._busy_cpu -= 1
        lease.release()

    def _lease_devices(self, wanted: int) -> Lease | None:
        # All or none: two flows that each held half of what they want would wait for ever.
        held: dict[str, int] = {}
        if not self.folder.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o777)
        for device in self.devices:
            descriptor = _try_lock(self.folder / f"{device.replace('/', '_')}.lock")
            if descriptor is not None:
                held[device] = descriptor
            if len(held) == wanted:
                return Lease(tuple(held), tuple(held.values()))
        for descriptor in held.values():
            os.close(descriptor)
        return None


def _try_lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(PermissionError):  # another user made the file, and opened it for everybody
        os.fchmod(descriptor, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def visible_devices(asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """The devices to use: those `asked` for, else CUDA_VISIBLE_DEVICES, else all that `nvidia-smi` lists.

    Indices become UUIDs where `nvidia-smi` knows them, so that two flows name one device alike.
    """
    uuids = _uuids_by_index()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        wanted = list(asked)
    elif named is not None:
        wanted = [device.strip() for device in named.split(",")]
    else:
        wanted = list(uuids)
    return tuple(dict.fromkeys(uuids.get(device, device) for device in wanted if device not in ("", "-1")))


def _uuids_by_index() -> dict[str, str]:
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):  # no driver: a machine without GPUs
        return {}
    rows = [line.split(",") for line in listed.splitlines() if "," in line]
    return {index.strip(): uuid.strip() for index, uuid in rows}
