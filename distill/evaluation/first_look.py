"""A look at a model: its loss on some rows, beside that of guessing."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from distill.evaluation.guessing import LOOK_ROWS, FirstLook, guessing_loss, uniform_loss
from distill.generation.validation import reference_loss
from distill.models.parts import head, rows_of
from distill.text.examples import Example


def look_at(model: PreTrainedModel, rows: Sequence[Example], others: Sequence[Example], batch: int) -> FirstLook:
    """Read the first `LOOK_ROWS` of `rows`, so many at once; the frequencies of tokens are also those of `others`."""
    looked = rows[:LOOK_ROWS]
    return judged(model, reference_loss(model, looked, batch), looked, [*rows[LOOK_ROWS:], *others])


def judged(model: PreTrainedModel, loss: float, rows: Sequence[Example], others: Sequence[Example]) -> FirstLook:
    """The same of a loss on all `rows` that is known."""
    vocabulary = rows_of(head(model))
    guessing = guessing_loss([row.response_ids for row in rows], vocabulary, (row.response_ids for row in others))
    return FirstLook(loss, guessing, uniform_loss(vocabulary), len(rows))
