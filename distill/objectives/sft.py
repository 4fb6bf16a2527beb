"""SFT: cross-entropy on the response's tokens, -log q(y_t | y_<t, x).

On responses that the teacher sampled this is SeqKD (Kim and Rush 2016).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.project.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

NEEDS_TEACHER = False
LABEL = "SFT"


class ObjectiveSettings(Settings):
    """SFT's formula has no setting."""


def token_losses(
    settings: ObjectiveSettings, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, progress: float
) -> Tensor:
    """Cross-entropy of each token, [N]; logits are [N, V], labels [N]."""
    logq = student_logits.log_softmax(-1)
    return -logq.gather(-1, labels[:, None]).squeeze(-1)
