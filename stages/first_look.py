"""A look at a model before hours of training rest on it: what it is worth on some of the user's own rows."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from distill.evaluation.guessing import LOOK_ROWS, FirstLook, guessing_loss, uniform_loss
from distill.generation.validation import reference_loss
from distill.models.parts import head, rows_of
from distill.parallel.processes import device
from distill.project.files import read_json
from distill.text.examples import Example, read_examples
from stages.experiment import Experiment


def take(experiment: Experiment, model: PreTrainedModel) -> FirstLook:
    """Read validation rows with a model that stands at the beginning; say what was seen."""
    valid, train = (read_examples(experiment.data / f"{split}.parquet") for split in ("valid", "train"))
    rows = valid[:LOOK_ROWS]
    torch.nn.Module.to(model, device())
    loss = reference_loss(model, rows, experiment.hardware.largest_micro_batch())
    look = _look(loss, rows, train, model)
    doubt = look.doubt(_teacher_loss(experiment))
    print(f"{experiment.name}: {look.told()}" if doubt is None else f"warning: {experiment.name}: {doubt}", flush=True)
    return look


def doubt_finished(experiment: Experiment, model: PreTrainedModel, loss: float, when: str) -> None:
    """Warn of a trained or taken model whose validation loss is no better than guessing."""
    valid, train = (read_examples(experiment.data / f"{split}.parquet") for split in ("valid", "train"))
    doubt = _look(loss, valid, train, model).doubt()
    if doubt is not None:
        print(f"warning: {experiment.name} {when}: {doubt}", flush=True)


def _look(loss: float, rows: list[Example], train: list[Example], model: PreTrainedModel) -> FirstLook:
    vocabulary = rows_of(head(model))
    guessing = guessing_loss([row.response_ids for row in rows], vocabulary, (row.response_ids for row in train))
    return FirstLook(loss, guessing, uniform_loss(vocabulary), len(rows))


def _teacher_loss(experiment: Experiment) -> float | None:
    """What the same look saw of the teacher's start, where a student's is looked at and the teacher's was."""
    record = Path("runs") / experiment.family / "base.run.json"
    if experiment.who == experiment.family or not record.is_file():
        return None
    seen = read_json(record).get("first_look")
    return None if seen is None else float(seen["loss"])
