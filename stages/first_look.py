"""A look at a model before hours of training rest on it: what it is worth on some of the user's own rows."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from distill.evaluation.first_look import judged, look_at
from distill.evaluation.guessing import FREQUENCY_ROWS, FirstLook, stored_look
from distill.parallel.processes import device
from distill.text.examples import Example, read_examples
from stages.experiment import Experiment


def take(experiment: Experiment, model: PreTrainedModel) -> FirstLook:
    """Read validation rows with a model that stands at the beginning; say what was seen."""
    torch.nn.Module.to(model, device())
    look = look_at(model, *_rows(experiment), experiment.hardware.largest_micro_batch())
    teacher = None if experiment.who == experiment.family else stored_look(experiment.family, Path())
    doubt = look.doubt(None if teacher is None else teacher.loss)
    print(f"{experiment.name}: {look.told()}" if doubt is None else f"warning: {experiment.name}: {doubt}", flush=True)
    return look


def doubt_finished(experiment: Experiment, model: PreTrainedModel, loss: float, when: str) -> None:
    """Warn of a trained or taken model whose validation loss is no better than guessing."""
    doubt = judged(model, loss, *_rows(experiment)).doubt()
    if doubt is not None:
        print(f"warning: {experiment.name} {when}: {doubt}", flush=True)


def _rows(experiment: Experiment) -> tuple[list[Example], list[Example]]:
    valid = read_examples(experiment.data / "valid.parquet")
    return valid, read_examples(experiment.data / "train.parquet", FREQUENCY_ROWS)
