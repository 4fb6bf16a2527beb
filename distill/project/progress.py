"""Progress of a stage: one bar with an ETA on a terminal, rare lines in a log file.

The same numbers go to `.resume/progress/<stage>.json`, for an orchestrator to read.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

PROGRESS_FOLDER = Path(".resume/progress")
_SECONDS_BETWEEN_FILES = 1.0
_SECONDS_BETWEEN_LOG_LINES = 30.0


class Progress:
    """A progress bar over `steps` steps, named after the stage, e.g. `tiny/minillm`."""

    def __init__(self, name: str, steps: int, unit: str = "step", start: int = 0, shown: bool = True) -> None:
        """`start` is the step a resumed run continues from; `unit` is the word for a step.

        Of several processes that share a stage only the first has its progress `shown`.
        """
        self._shown = shown
        self.name, self.steps, self.step, self.resumed_from = name, steps, start, start or None
        self._began, self._first, self._written = time.monotonic(), start, 0.0
        # A bar redraws itself with carriage returns, which a log file would only collect.
        self._bar = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=start, desc=name, unit=unit, dynamic_ncols=True, mininterval=0.2)
        self._unit, self._logged = unit, self._began

    def advance(self, count: int = 1, **shown: float) -> None:
        """Go on by `count` steps and show a few numbers, e.g. `loss=1.2`."""
        self.step += count
        if not self._shown:
            return
        text = {k: f"{v:.3g}" for k, v in shown.items()}
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix(text, refresh=False)
            self._bar.update(count)
        elif now - self._logged > _SECONDS_BETWEEN_LOG_LINES or self.step >= self.steps:
            self._logged = now
            numbers = "".join(f", {k} {v}" for k, v in text.items())
            seconds = f"{now - self._began:.0f} s"
            print(f"{self.name}: {self.step}/{self.steps} {self._unit}s in {seconds}{numbers}", file=sys.stderr)
        if now - self._written > _SECONDS_BETWEEN_FILES or self.step >= self.steps:
            self._write(shown)

    def _write(self, shown: Mapping[str, float]) -> None:
        done = self.step - self._first
        seconds = time.monotonic() - self._began
        state = {
            "stage": self.name,
            "step": self.step,
            "steps": self.steps,
            "eta_s": round(seconds / done * (self.steps - self.step), 1) if done else None,
            "resumed_from": self.resumed_from,
            "pid": os.getpid(),
            **{k: round(v, 6) for k, v in shown.items()},
        }
        self._written = time.monotonic()
        PROGRESS_FOLDER.mkdir(parents=True, exist_ok=True)
        target = PROGRESS_FOLDER / f"{self.name.replace('/', '@')}.json"
        aside = target.with_suffix(f".{os.getpid()}.part")
        aside.write_text(json.dumps(state), encoding="utf-8")  # a lost progress note costs nothing: no sync
        os.replace(aside, target)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
