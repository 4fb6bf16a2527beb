"""Word-level KD: (1 - k) * cross-entropy + k * KL(p || q) (Hinton et al. 2015, Sanh et al. 2019; k = 0.5 in the
MiniLLM paper). p: teacher, q: student. With k = 1 it is forward KL alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from distill.project.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

NEEDS_TEACHER = True
LABEL = "KD"


class ObjectiveSettings(Settings):
    """KD's mixing ratio."""

    kd_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share k of the KL term."""


def token_losses(
    settings: ObjectiveSettings, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, progress: float
) -> Tensor:
    """Mixed loss of each token, [N]; logits are [N, V] over the shared vocabulary, labels [N]."""
    assert teacher_logits is not None  # NEEDS_TEACHER
    logq = student_logits.log_softmax(-1)
    logp = teacher_logits.log_softmax(-1)
    cross_entropy = -logq.gather(-1, labels[:, None]).squeeze(-1)
    forward_kl = (logp.exp() * (logp - logq)).sum(-1)
    return (1 - settings.kd_ratio) * cross_entropy + settings.kd_ratio * forward_kl
