"""Generalised Jensen-Shannon divergence, beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q
(Agarwal et al. 2024, Eq. 1). p: teacher, q: student.

beta is the teacher's share of the mixture. Towards beta = 0 the divergence itself vanishes, and JSD / beta becomes
forward KL; towards 1, JSD / (1 - beta) becomes reverse KL. `scale: even` divides by beta (1 - beta): near p = q all
betas then have one scale, and a learning rate holds for each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from distill.project.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

NEEDS_TEACHER = True
LABEL = "JSD"


class ObjectiveSettings(Settings):
    """The mixture and the scale."""

    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Teacher's share of the mixture m."""
    scale: Literal["paper", "even"] = "paper"
    """As printed, or divided by beta (1 - beta); only `even` has the limits 0 (forward KL) and 1 (reverse KL)."""

    @model_validator(mode="after")
    def _not_zero_everywhere(self) -> ObjectiveSettings:
        if self.scale == "paper" and self.beta in (0, 1):
            raise ValueError(f"`beta: {self.beta:g}` makes the loss 0; use `scale: even`, or kd or reverse_kl")
        return self


def token_losses(
    settings: ObjectiveSettings, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, progress: float
) -> Tensor:
    """Divergence at each position, [N]; logits are [N, V] over the shared vocabulary, labels [N] are not used."""
    assert teacher_logits is not None  # NEEDS_TEACHER
    logq, logp, beta = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1), settings.beta
    if beta in (0, 1):
        return (logp.exp() * (logp - logq)).sum(-1) if beta == 0 else (logq.exp() * (logq - logp)).sum(-1)
    # In logarithms: where both probabilities underflow, log(beta p + (1 - beta) q) would be log(0).
    logm = (logp + math.log(beta)).logaddexp(logq + math.log1p(-beta))
    terms = beta * logp.exp() * (logp - logm) + (1 - beta) * logq.exp() * (logq - logm)
    return terms.sum(-1) / (beta * (1 - beta) if settings.scale == "even" else 1)
