"""Measurements in processes of their own, so that neither memory nor warm caches pass from one to the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import psutil

from distill.on_policy.process_memory import PeakMemory


class Meter:
    """CPU seconds, and resident memory above what the process held when the meter was made."""

    def __init__(self) -> None:
        self.memory = PeakMemory()
        # Memory that loading took for a moment does not count.
        self.memory.restart()
        self.held: float = psutil.Process().memory_info().rss / 2**20
        self.began = time.process_time()

    def cpu_seconds(self) -> float:
        """CPU seconds of this process, all threads, since the meter was made."""
        return time.process_time() - self.began

    def peak_mib(self, ledger_mib: float = 0.0) -> float:
        """Highest resident memory since then, above `held`, in MiB; `ledger_mib` is the highest a ledger has seen."""
        return max(self.memory.peaks()["peak_rss_mib"], ledger_mib) - self.held


def in_fresh_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments` on one thread; return the JSON of its last line.

    Raises: SystemExit with its output if it fails.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"`{' '.join(command[1:])}` failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
