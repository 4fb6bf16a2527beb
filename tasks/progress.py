"""A stage's progress file, shown as a live Prefect artifact.

A training stage writes `.resume/progress/<stage>.json`: {"step", "steps", "eta_s", "resumed_from", "loss" …}.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.mappings import read_progress

_SECONDS_BETWEEN_UPDATES = 2.0
# Shown in words; every other number of the file is shown as it is.
_KNOWN = ("stage", "step", "steps", "eta_s", "resumed_from", "pid")


@dataclass
class StageProgress:
    """Follows the progress file of one attempt at one stage."""

    path: Path
    key: str
    """The artifact's key: small letters, digits and dashes."""
    log: logging.Logger | logging.LoggerAdapter[logging.Logger]
    resumed_from: int | None = None
    """The step from which the stage continued."""
    _artifact: UUID | None = None
    _shown: dict[str, Any] = field(default_factory=dict)
    _next: float = 0.0

    @classmethod
    def of(cls, root: Path, stage: str, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> StageProgress:
        """Begin to follow a new attempt at `stage`; an earlier one's file is removed."""
        path = root / ".resume/progress" / f"{stage}.json"
        path.unlink(missing_ok=True)
        return cls(path, "progress-" + re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-"), log)

    def show(self, last: bool = False) -> None:
        """Bring the artifact up to date, every two seconds and the `last` time; call it inside the task."""
        if not last and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SECONDS_BETWEEN_UPDATES
        state = read_progress(self.path)
        if not state or state == self._shown:
            return
        self._shown = state
        if state.get("resumed_from") is not None and self.resumed_from is None:
            self.resumed_from = int(state["resumed_from"])
            self.log.info("resumed from step %d", self.resumed_from)
        percent = 100.0 * state["step"] / max(1, state["steps"])
        try:
            if self._artifact is None:
                self._artifact = create_progress_artifact(percent, key=self.key, description=describe(state))  # type: ignore[assignment]
            else:
                update_progress_artifact(self._artifact, percent, description=describe(state))
        except httpx.HTTPError as error:  # the server is away; the stage is not
            self.log.warning("progress not shown: the Prefect server does not answer (%s)", error)


def describe(state: dict[str, Any]) -> str:
    """Progress in words: `step 40 of 120 · 35 s left · loss 1.83 · resumed from step 30`."""
    parts = [str(state["stage"])] if state.get("stage") else []
    parts.append(f"step {state['step']} of {state['steps']}")
    if state.get("eta_s") is not None:
        parts.append(f"{duration(state['eta_s'])} left")
    parts += [f"{name} {value:.4g}" for name, value in state.items() if name not in _KNOWN and value is not None]
    if state.get("resumed_from") is not None:
        parts.append(f"resumed from step {state['resumed_from']}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
