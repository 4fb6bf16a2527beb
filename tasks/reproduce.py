"""One DVC stage as one Prefect task: `dvc --wait-for-lock repro -s STAGE`, its log, progress and state."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.states import Cancelled, Completed, Failed

from tasks.clone import dvc
from tasks.errors import RebuildError
from tasks.graph import Stage
from tasks.leases import Lease
from tasks.processes import DVC, Command
from tasks.progress import StageProgress
from tasks.schedule import Outcome

Log = logging.Logger | logging.LoggerAdapter[Any]

_LOOK_EVERY_S = 0.5
_TAIL = 12
# Lines that DVC 3 prints; a test checks each of them, so that a new wording is noticed.
_RAN = re.compile(r"^Running stage '")
_RESTORED = re.compile(r" is cached - skipping run, checking out outputs$|^Pulling data for ")
_HINT = re.compile(
    r"^(To track the changes|To enable auto staging|Use `dvc push`|(Generating|Updating) lock file)|"
    r"^\s+(git add|dvc config) "
)
_REFUSED = re.compile(r"failed to run: .*, exited with 2$")
_KILLED = re.compile(r"failed to run: .*, exited with (-9|137)$")


@dataclass(frozen=True)
class RunPlace:
    """The place of a run's stages, and the settings for running them."""

    root: Path
    """The clone."""
    stop: threading.Event
    """Set to end every stage of the run."""
    clone_lock: int
    """Descriptor of the clone's lock, which the stage's processes keep open."""
    threads: int
    """OMP_NUM_THREADS of a stage on a CPU slot, so that stages side by side share the cores."""
    pull: bool
    """Whether to look for results in the DVC remote before building them."""
    share: bool
    """Whether to push a built stage at once, with DVC's run cache."""


def _worth_retrying(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether to try again: not after a stage refused its settings or data (exit code 2)."""
    return not _REFUSED.search((state.message or "").splitlines()[0])


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=_worth_retrying)
def reproduce(stage: Stage, place: RunPlace, lease: Lease) -> State[Any]:
    """Bring one stage up to date: Completed as Built, Restored or UpToDate; Failed; Cancelled by a stop."""
    log = get_run_logger()
    context = TaskRunContext.get()
    attempt = context.task_run.run_count if context else 1
    if attempt > 1:
        # Waited for here and not by Prefect, which would sleep through a cancel.
        place.stop.wait(stage.retry_delay_s)
    if place.stop.is_set():
        return Cancelled(message="the run was stopped before this stage began")
    if lease.devices:
        log.info("on devices %s", ", ".join(lease.devices))
    began = time.monotonic()
    progress = StageProgress.of(place.root, stage.name, log)
    command = Command(
        [*DVC, "repro", "-s", *(["--pull"] if place.pull else []), stage.name],
        place.root,
        _stage_environment(place, lease),
        (place.clone_lock, *lease.descriptors),
    )
    lines: list[str] = []
    for line in command.lines(every=_LOOK_EVERY_S):
        if place.stop.is_set():
            command.stop()
        if line is not None:
            log.log(logging.DEBUG if _HINT.search(line) else logging.INFO, line)
            lines.append(line)
        progress.show()
    code = command.wait()
    progress.show(last=True)
    return _ending(stage, place, code, lines, progress.resumed_from, time.monotonic() - began)


def _ending(
    stage: Stage, place: RunPlace, code: int, lines: list[str], resumed_from: int | None, seconds: float
) -> State[Any]:
    resumed = "" if resumed_from is None else f"resumed from step {resumed_from}; "
    if code and place.stop.is_set():
        return Cancelled(message=f"{resumed}stopped after {seconds:.0f} s; the next run continues")
    if code:
        return Failed(
            message="\n".join([_reason(stage, lines), f"{resumed}failed after {seconds:.0f} s", *lines[-_TAIL:]])
        )
    if any(_RAN.search(line) for line in lines):
        shared = _push(stage, place) if place.share else ""
        return Completed(name=Outcome.BUILT, message=f"{resumed}built in {seconds:.0f} s{shared}")
    if any(_RESTORED.search(line) for line in lines):
        return Completed(name=Outcome.RESTORED, message=f"restored from DVC in {seconds:.0f} s")
    return Completed(name=Outcome.UP_TO_DATE, message="DVC found nothing changed")


def _reason(stage: Stage, lines: list[str]) -> str:
    """The reason in one line: DVC's own error, and the usual meaning of a kill."""
    errors = [line for line in lines if line.startswith("ERROR: ")]
    reason = (errors or lines or ["dvc ended without a message"])[-1].removeprefix("ERROR: ")
    reason = reason.removeprefix(f"failed to reproduce '{stage.name}': ")
    if _KILLED.search(reason):
        return f"{reason} (killed, most often for want of memory: lower the profile's hardware.micro_batch)"
    return reason


def _push(stage: Stage, place: RunPlace) -> str:
    try:
        dvc(place.root, "push", "--run-cache", stage.name)
    except RebuildError as error:
        get_run_logger().warning("not pushed: %s", error)
        return ", NOT pushed: `dvc push --run-cache` shows why"
    return ", pushed"


def _stage_environment(place: RunPlace, lease: Lease) -> dict[str, str]:
    # CUDA numbers devices by speed unless told otherwise; an empty list hides the devices other stages hold.
    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(lease.devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    threads = os.environ.get("OMP_NUM_THREADS", str(place.threads))
    return chosen if lease.devices else {**chosen, "OMP_NUM_THREADS": threads}


@task(cache_policy=NO_CACHE, persist_result=False)
def settle(outcome: Outcome, message: str) -> State[Any]:
    """Show in the UI a stage that needed no process: UpToDate, NotReady or Cancelled."""
    if outcome is Outcome.UP_TO_DATE:
        return Completed(name=Outcome.UP_TO_DATE, message=message)
    return Cancelled(name=outcome, message=message)
