"""Skew KL (Ko et al. 2024, DistiLLM): one side of the KL is mixed with the other. p: teacher, q: student.

forward   KL(p || a p + (1 - a) q)      at most -ln a; a = 0 is forward KL
reverse   KL(q || (1 - a) p + a q)      at most -ln a; a = 0 is reverse KL
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from distill.project.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

NEEDS_TEACHER = True
LABEL = "Skew KL"


class ObjectiveSettings(Settings):
    """The direction and the skew."""

    direction: Literal["forward", "reverse"] = "reverse"
    """Whose expectation is taken: the teacher's (forward) or the student's (reverse)."""
    skew: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share a of that same distribution in the mixture; 0.1 in the paper."""


def token_losses(
    settings: ObjectiveSettings, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, progress: float
) -> Tensor:
    """Divergence at each position, [N]; logits are [N, V] over the shared vocabulary, labels [N] are not used."""
    assert teacher_logits is not None  # NEEDS_TEACHER
    logq, logp = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    own, other = (logp, logq) if settings.direction == "forward" else (logq, logp)
    mixed = other
    if settings.skew:
        # In logarithms: where both probabilities underflow, the mixture's logarithm would be log(0).
        mixed = (own + math.log(settings.skew)).logaddexp(other + math.log1p(-settings.skew))
    return (own.exp() * (own - mixed)).sum(-1)
