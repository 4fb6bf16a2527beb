"""Reports of a training run to TensorBoard, Weights & Biases or MLflow, through transformers' own callbacks.

DVC's curves are written in any case; a tracker shows the same numbers during the run. TensorBoard's files go to
`trackers/tensorboard/<stage>`, in this clone and nowhere else; the other two send them where their own environment
variables say (WANDB_MODE=offline and MLFLOW_TRACKING_URI keep them here).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback, get_reporting_integration_callbacks

if TYPE_CHECKING:
    from distill.runs.curves import Curves

FOLDER = Path("trackers")
_PROJECT = "distill-pipeline"


def callbacks(report_to: Sequence[str], name: str) -> list[TrainerCallback]:
    """One callback for each tracker, for the stage `name`, e.g. `sft@tiny`; in the first process alone."""
    if not report_to or int(os.environ.get("RANK", "0")):
        return []
    os.environ.setdefault("WANDB_PROJECT", _PROJECT)
    os.environ.setdefault("WANDB_NAME", name)
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", _PROJECT)
    made: list[TrainerCallback] = [kind() for kind in get_reporting_integration_callbacks(list(report_to))]
    for callback in made:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(FOLDER / "tensorboard" / name)
    return made


class Trackers:
    """Trackers of a loop without a Trainer, which hands over its curves after each step."""

    def __init__(self, report_to: Sequence[str], name: str, settings: dict[str, Any], curves: Curves) -> None:
        """Start reporting; the run that is continued has reported the points in `curves`."""
        self._callbacks = callbacks(report_to, name)
        self._seen = {quantity: len(points) for quantity, points in curves.points.items()}
        if self._callbacks:
            self._arguments = TrainingArguments(output_dir=str(FOLDER), run_name=name, report_to=[], use_cpu=True)
            self._state, self._control = TrainerState(), TrainerControl()
            self._tell("on_train_begin")
            self._log(0, {"settings": str(settings)})

    def report(self, curves: Curves) -> None:
        """Report the points added since the last call."""
        if not self._callbacks:
            return
        fresh: dict[int, dict[str, Any]] = {}
        for quantity, points in curves.points.items():
            for step, value in points[self._seen.get(quantity, 0) :]:
                fresh.setdefault(int(step), {})[quantity] = value
            self._seen[quantity] = len(points)
        for step, values in sorted(fresh.items()):
            self._log(step, values)

    def end(self) -> None:
        """Close the trackers."""
        self._tell("on_train_end")

    def _log(self, step: int, values: dict[str, Any]) -> None:
        self._state.global_step = step
        self._tell("on_log", logs=values)

    def _tell(self, event: str, **values: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, event)(self._arguments, self._state, self._control, **values)
