"""How every training stage begins: its machine's settings checked, its processes started and connected."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distill.parallel.agreement import require_same
from distill.parallel.faults import batch_faults, machine_faults, micro_batch_faults, require
from distill.parallel.group import end_worker
from distill.parallel.launch import fitting_micro_batch, relaunch_if_asked, smaller_next_time
from distill.parallel.meeting import one_voice
from distill.parallel.processes import Processes, joined_processes
from distill.project.errors import DivergedError
from distill.project.settings import Settings
from distill.runs.curves import Curves
from distill.runs.resume import fingerprint
from distill.runs.selection import By, fallback

if TYPE_CHECKING:
    from stages.experiment import Experiment


@contextmanager
def training(
    experiment: Experiment, batches: dict[str, int], accumulated: bool, lora: bool
) -> Iterator[tuple[Processes, int]]:
    """The processes that train together, and the micro-batch of each; started here when they are not yet.

    `batches` are the global batches by their places in the profile, the one that is divided into micro-batches
    first; `accumulated` ones want equal micro-batches; `lora` says that an adapter is trained.

    Raises: SettingsError with every fault of the machine's settings; SystemExit when the processes started here
    have done the work.
    """
    hardware = experiment.hardware
    faults = machine_faults(hardware, experiment.dtype, lora) or batch_faults(hardware, batches)
    if accumulated:
        faults = faults or micro_batch_faults(hardware, batches)
    require(faults, experiment.profile)
    relaunch_if_asked(hardware)
    with one_voice(), joined_processes(hardware.patience) as processes:
        micro_batch = fitting_micro_batch(hardware, next(iter(batches.values())) // processes.count)
        with smaller_next_time(micro_batch):
            yield processes, micro_batch
    end_worker()


def agreed_fingerprint(experiment: Experiment, processes: Processes, settings: Settings, *inputs: Path) -> str:
    """The experiment's fingerprint, after all processes have made sure that theirs is the same.

    Raises: DataError naming the process, its machine, and what differs there.
    """
    identity = experiment.identity(settings, *inputs)
    require_same(processes, identity | {f"{experiment.profile}: hardware": str(experiment.hardware)})
    return fingerprint(identity)


def told_selection(experiment: Experiment, curves: Curves, wanted: By, by: By) -> dict[str, str]:
    """For the run's record: that the loss chose the checkpoint though Rouge-L was to, which is said aloud too."""
    why = fallback(curves.points, wanted, by)
    if why is None:
        return {}
    print(f"warning: {experiment.name}: {why}", file=sys.stderr)
    return {"selection": why}


@contextmanager
def after_all(processes: Processes) -> Iterator[None]:
    """A fault that all processes find ends them together: the first has evidence to write, the others wait for it."""
    try:
        yield
    except DivergedError:
        processes.wait()
        raise
