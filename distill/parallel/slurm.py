"""Processes on the machines of a Slurm allocation, which `srun` starts: no ssh, no hostfile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from distill.parallel.group import meeting_variables, say, wait_until
from distill.project.running import held_locks, srun_variables

# srun waits for its tasks' machines to say that they are gone.
_SECONDS_TO_END = 30.0


def allocated() -> int | None:
    """How many processes the allocation that we are in was asked for; None outside of one."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    return int(tasks) if "SLURM_JOB_ID" in os.environ and tasks.isdigit() else None


def slurm_faults() -> list[str]:
    """Why `processes: slurm` cannot be had here."""
    if allocated() is None:
        return [
            "hardware.processes: slurm, and this is no Slurm allocation with a number of tasks; run the command "
            "inside `sbatch --nodes N --ntasks-per-node M`, or use processes: devices"
        ]
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return [
            "hardware.processes: slurm, and srun has started this command several times; start it once, from the "
            "batch script itself: a training stage calls srun"
        ]
    if shutil.which("srun") is None:
        return ["hardware.processes: slurm needs srun on PATH; install Slurm's commands, or use processes: devices"]
    return []


class Started:
    """All processes of a stage, as the tasks of one `srun`."""

    def __init__(
        self,
        arguments: Sequence[str],
        processes: int,
        address: str,
        environment: Mapping[str, str],
        told: Callable[[], int | None],
    ) -> None:
        """Start them; `address` is where they meet, `told` gives the exit code of one that has said what went wrong."""
        self.told = told
        host, _, port = address.rpartition(":")
        # Without --kill-on-bad-exit the others would wait for one that has failed. srun no longer takes over the cores
        # that a batch job asked for each task.
        options = [f"--ntasks={processes}", "--kill-on-bad-exit=1", "--input=none"]
        if cores := environment.get("SLURM_CPUS_PER_TASK"):
            options.append(f"--cpus-per-task={cores}")
        self.asked = False
        self.process = subprocess.Popen(
            ["srun", *options, sys.executable, *arguments],
            env={**environment, **meeting_variables(host, port), **srun_variables()},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=held_locks(),
        )

    def poll(self) -> int | None:
        """As `Group.poll`; srun says which task, and where, was killed."""
        code = self.process.poll()
        if code in (None, 0):
            return code
        # Its code is the highest of all tasks', mostly of one that it has ended because another failed.
        if self.told() is None and not self.asked:
            say(
                f"srun ended with exit code {code}; its lines above name the task, which is the process's number, and "
                "the machine; mend that and run the same command to continue"
            )
        return code if code > 0 else 1

    def ask(self, number: int) -> None:
        """As `Group.ask`. To one Ctrl-C srun only answers with the state of its tasks; SIGTERM it passes on."""
        self.asked = True
        self._send(signal.SIGTERM)

    def end(self) -> None:
        """As `Group.end`."""
        self._send(signal.SIGTERM)
        if not wait_until(lambda: self.process.poll() is not None, _SECONDS_TO_END):
            self._send(signal.SIGKILL)
        self.process.wait()

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
