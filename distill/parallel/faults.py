"""What a machine's settings ask for that does not work, said before anything starts, with the nearest that does."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.parallel.hosts import read_hostfile
from distill.parallel.slurm import allocated, slurm_faults
from distill.project.errors import SettingsError
from distill.project.running import is_started
from distill.runs.hardware import HardwareSettings


def gpus() -> int:
    """GPUs of this machine that this process may use, counted without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def process_count(hardware: HardwareSettings) -> int:
    """How many processes a training stage becomes, over all hosts.

    Raises: SettingsError for a hostfile that cannot be used.
    """
    if hardware.hostfile is not None:
        return sum(host.slots for host in read_hostfile(Path(hardware.hostfile)))
    if hardware.processes == "slurm":
        return allocated() or 1
    return max(1, gpus()) if hardware.processes == "devices" else hardware.processes


def machine_faults(hardware: HardwareSettings, dtype: str, lora: bool = False) -> list[str]:
    """Faults of a machine's settings for a recipe of precision `dtype`, with or without an adapter to train."""
    faults, stage, devices = [], hardware.zero_stage, gpus()
    if dtype == "float16":
        # AdamW's epsilon and small second moments are 0 in it; DeepSpeed's loss scaling would skip updates.
        faults.append("recipe.dtype: float16 is not trained, AdamW would divide by 0 in it; use bfloat16")
    if hardware.teacher.dtype == "float16" and not devices:
        faults.append("hardware.teacher.dtype: float16 has no kernels on a CPU; use bfloat16")
    if dtype == "bfloat16" and not stage and not lora:
        faults.append(
            f"hardware.zero_stage: {'null' if stage is None else stage} keeps no float32 weights beside bfloat16 ones, "
            "and most steps are smaller than their rounding; use zero_stage: 1, or recipe.dtype: float32"
        )
    if lora and stage is not None:
        faults.append("hardware.zero_stage: an adapter's few weights are not divided; use zero_stage: null")
    if lora and hardware.teacher.offload:
        faults.append("hardware.teacher.offload: with an adapter both models may share weights; use offload: false")
    if lora and hardware.teacher.shard:
        faults.append("hardware.teacher.shard: with an adapter both models may share weights; use shard: false")
    if hardware.teacher.offload and hardware.teacher.shard:
        faults.append("hardware.teacher: offload and shard do not go together; use offload: false")
    if hardware.offload == "optimizer" and not stage:
        faults.append("hardware.offload: optimizer needs AdamW's state divided; use zero_stage: 1 or offload: none")
    if hardware.offload == "all" and stage != 3:
        nearest = "offload: optimizer" if stage else "zero_stage: 3"
        faults.append(f"hardware.offload: all needs the weights divided (zero_stage: 3); use {nearest}")
    if is_started():
        pass  # what follows is about starting processes, and this is one of them
    elif hardware.hostfile is not None:
        if hardware.processes != 1:
            faults.append("hardware.processes and hardware.hostfile both say how many; remove `processes`")
        if shutil.which("ssh") is None:
            faults.append("hardware.hostfile needs ssh on PATH; install it, or use `processes` on one machine")
        try:
            first = read_hostfile(Path(hardware.hostfile))[0]
        except SettingsError as error:
            faults.append(str(error))
        else:
            if first.devices is None and first.slots > devices > 0 and first.is_here():
                faults.append(
                    f"{hardware.hostfile}: {first.name} slots={first.slots} is more than the {devices} GPU(s) to be "
                    f"seen here; use slots={devices}"
                )
    elif hardware.processes == "slurm":
        faults += slurm_faults()
    elif hardware.processes == "devices" and not devices:
        faults.append("hardware.processes: devices, and there is no GPU to be seen; use processes: 1")
    elif isinstance(hardware.processes, int) and hardware.processes > devices > 0:
        faults.append(
            f"hardware.processes: {hardware.processes} is more than the {devices} GPU(s) to be seen, and two "
            f"processes do not share one; use processes: {devices}"
        )
    if stage is not None and not (_found("g++") and _found("ninja")):
        faults.append(
            "hardware.zero_stage: DeepSpeed compiles a small extension and finds no g++ or no ninja; install them "
            "(apt-get install g++; pip install ninja) or use zero_stage: null"
        )
    return faults


def batch_faults(hardware: HardwareSettings, batches: Mapping[str, int]) -> list[str]:
    """Global batches, by what they are called, that the processes cannot divide evenly."""
    processes = process_count(hardware)
    return [
        f"{name}: {batch} cannot be divided between {processes} processes; use {_nearest(batch, processes)} processes"
        f" or {name.rpartition('.')[2]}: {-(-batch // processes) * processes}"
        for name, batch in batches.items()
        if batch % processes
    ]


def micro_batch_faults(hardware: HardwareSettings, batches: Mapping[str, int]) -> list[str]:
    """Global batches that whole micro-batches do not fill (supervised training accumulates equal ones)."""
    processes, faults = process_count(hardware), []
    for name, batch in batches.items():
        share, rest = divmod(batch, processes)
        micro = hardware.largest_micro_batch(share or 1)
        if not rest and share % micro:
            faults.append(
                f"{name}: {batch} is not a multiple of micro_batch {micro} x {processes} processes; use "
                f"hardware.micro_batch: {_nearest(share, micro)}"
            )
    return faults


def require(faults: Sequence[str], place: Path) -> None:
    """Raise SettingsError with all `faults`, if any, of the file `place`."""
    if faults:
        raise SettingsError("\n  ".join(f"{place}: {fault}" for fault in faults))


def _nearest(batch: int, most: int) -> int:
    """The largest divisor of `batch` that is not over `most`."""
    return next(size for size in range(min(batch, most), 0, -1) if batch % size == 0)


def _found(program: str) -> bool:
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which(program, path=folders) is not None
