"""The stored states of an unfinished supervised run: which one to go on from, which to keep, and the curves in them.

A state is `checkpoint-<step>`: weights and AdamW's moments, whole, as safetensors, and the Trainer's log as JSON, so
that another number of processes or another ZeRO stage can take it up. All else follows from the step: the order of
the rows, the learning rate and the draws of dropout.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.trainer_callback import TrainerState

from distill.project.files import fresh_dir, read_json
from distill.runs.curves import Curves
from distill.runs.resume import is_intact, require_own, seal
from distill.training.tensor_files import StoredTensors, write_tensors

_KEPT = 2
WEIGHTS, MOMENTS = "weights", "optimiser"
_LOG = "trainer_state.json"  # where the Trainer looks for it


def checkpoint_folder(scratch: Path, step: int) -> Path:
    """Where the state after `step` updates lies."""
    return scratch / f"checkpoint-{step}"


def store(
    scratch: Path, state: TrainerState, weights: Iterable[tuple[str, Tensor]], moments: Iterable[tuple[str, Tensor]]
) -> None:
    """Write the state of a run as it stands, or nothing; then remove all but the newest and the best they refer to."""
    with fresh_dir(checkpoint_folder(scratch, state.global_step)) as aside:
        aside.chmod(0o700)
        write_tensors(aside, WEIGHTS, weights)
        write_tensors(aside, MOMENTS, moments)
        state.save_to_json(str(aside / _LOG))
        # Last, over all other files: a state without it was cut short.
        seal(aside)
    # Only after the new state stands, so that at no moment there is none.
    newest = _checkpoints(scratch)[-_KEPT:]
    # The best may be older than the newest two, and its weights are what the run gives in the end.
    needed = {folder.name for folder in newest} | {best.name for f in newest if (best := _best(f)) is not None}
    for folder in _checkpoints(scratch):
        if folder.name not in needed:
            shutil.rmtree(folder, ignore_errors=True)


def stored(folder: Path) -> tuple[StoredTensors, StoredTensors]:
    """Weights and moments of a stored state."""
    return StoredTensors(folder, WEIGHTS), StoredTensors(folder, MOMENTS)


def newest_checkpoint(scratch: Path) -> Path | None:
    """The newest state that is whole, as are the best weights it refers to; damaged ones are removed.

    Raises: DataError when another user could have written one.
    """
    for folder in reversed(_checkpoints(scratch)):
        require_own(folder)
        if is_intact(folder):
            best = _best(folder)
            if best is not None and best.is_dir():
                require_own(best)
            # A state whose best is damaged is no use: its end would have no weights to give.
            if best is None or is_intact(best):
                return folder
        print(f"{folder} was cut short or is damaged; going back to the state before it", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
    return None


def curves_of(history: Sequence[Mapping[str, Any]], every: int) -> Curves:
    """The curves in the Trainer's log of each step: the loss as a mean over `every` steps, the rest as it was then.

    The log travels in every checkpoint, so a run that was continued gives the curves of one that was not.
    """
    curves = Curves()
    losses: list[float] = []
    for entry in history:
        step = int(entry["step"])
        curves.add(step, **{f"valid_{n[5:]}": float(v) for n, v in entry.items() if n.startswith("eval_")})
        if "loss" in entry:
            losses.append(float(entry["loss"]))
            if step % every == 0:
                # Values of this step, not means: the rate and the norm are read at the step they belong to.
                shown = {name: float(entry[name]) for name in ("grad_norm", "learning_rate") if name in entry}
                # By the count and not by `every`: a log may hold fewer losses.
                curves.add(step, loss=sum(losses) / len(losses), **shown)
                losses.clear()
    return curves


def _checkpoints(scratch: Path) -> list[Path]:
    """Oldest first."""
    # As numbers: by name, 1000 would come before 200.
    return sorted(scratch.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))


def _best(folder: Path) -> Path | None:
    """The checkpoint whose weights were the best when this one was written."""
    state = folder / _LOG
    best = read_json(state)["best_model_checkpoint"] if state.is_file() else None
    return None if best is None else Path(best)
