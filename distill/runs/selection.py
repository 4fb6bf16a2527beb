"""Choosing the checkpoint that a training run keeps, by its validations.

The highest Rouge-L wins, or the lowest loss where the settings say so; of equal ones the one with the lower loss, and
of those the first. So a Rouge-L that never varies leaves the choice to the loss, and the reader is told. It decides
nothing from the start where it can read hardly any reference: what varies then is not the answers' quality.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

By = Literal["rouge_l", "loss"]


class Validated(NamedTuple):
    """One validation of a run."""

    step: int
    rouge_l: float
    loss: float
    """Nats a token of the references."""


class Validations:
    """The validations of a run, and the one whose weights are kept."""

    def __init__(self, by: By = "rouge_l", found: Iterable[Sequence[float]] = ()) -> None:
        """`by` is what decides; `found` are those so far, as `Validated` or lists of its numbers."""
        self.by: By = by
        self.found = [Validated(int(step), *numbers) for step, *numbers in found]

    def add(self, step: int, numbers: Mapping[str, float]) -> bool:
        """Note `rouge_l` and `loss` at a step; whether its weights are the best so far."""
        self.found.append(Validated(step, numbers["rouge_l"], numbers.get("loss", 0.0)))
        return self.kept is self.found[-1]

    @property
    def kept(self) -> Validated:
        """The one to keep, of at least one."""
        # Of equal ones `max` takes the first, so the outcome has no ties to break.
        return max(self.found, key=lambda each: (each.rouge_l if self.by == "rouge_l" else 0.0, -each.loss))


def fallback(curves: Mapping[str, Sequence[Sequence[float]]], wanted: By, by: By) -> str | None:
    """A sentence where the loss chose although Rouge-L was to, from a run's finished curves; else None.

    `wanted` is the setting, `by` what decided from the start.
    """
    scores = curves.get("valid_rouge_l", [])
    if wanted != "rouge_l" or not scores:
        return None
    if by == "loss":
        why = "validation Rouge-L can read hardly any reference"
    elif len(scores) > 1 and len({value for _, value in scores}) == 1:
        why = f"validation Rouge-L is {scores[0][1]:g} every time"
    else:
        return None
    losses = curves.get("valid_loss", [])
    if not losses:
        return f"{why}, so the first checkpoint is kept"
    step, loss = min(losses, key=lambda point: point[1])
    return f"{why}, so the checkpoint with the lowest validation loss is kept, {loss:.4g} at step {step:.0f}"
