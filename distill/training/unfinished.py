"""The Trainer's checkpoints of an unfinished run: which one to go on from, which to keep, and the curves in them.

The Trainer writes a checkpoint file by file and takes the newest folder for whole. Here each one is sealed with
checksums when it is done; a folder without a sound seal is what a kill left, and is removed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.project.files import read_json
from distill.runs.curves import Curves
from distill.runs.resume import is_intact, seal

_KEPT = 2


def seal_checkpoint(scratch: Path, step: int) -> None:
    """Vouch for `checkpoint-<step>`; then remove all but the newest few and the best weights these refer to."""
    seal(scratch / f"checkpoint-{step}")
    newest = _checkpoints(scratch)[-_KEPT:]
    needed = {folder.name for folder in newest} | {best.name for f in newest if (best := _best(f)) is not None}
    for folder in _checkpoints(scratch):
        if folder.name not in needed:
            shutil.rmtree(folder, ignore_errors=True)


def newest_checkpoint(scratch: Path) -> Path | None:
    """The newest checkpoint that is whole, as are the best weights it refers to; damaged ones are removed."""
    for folder in reversed(_checkpoints(scratch)):
        if is_intact(folder) and ((best := _best(folder)) is None or is_intact(best)):
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
                shown = {name: float(entry[name]) for name in ("grad_norm", "learning_rate") if name in entry}
                curves.add(step, loss=sum(losses) / len(losses), **shown)
                losses.clear()
    return curves


def _checkpoints(scratch: Path) -> list[Path]:
    """Oldest first."""
    return sorted(scratch.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))


def _best(folder: Path) -> Path | None:
    """The checkpoint whose weights were the best when this one was written."""
    state = folder / "trainer_state.json"
    best = read_json(state)["best_model_checkpoint"] if state.is_file() else None
    return None if best is None else Path(best)
