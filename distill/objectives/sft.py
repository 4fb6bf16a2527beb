"""SFT: cross-entropy on the response's tokens, -log q(y_t | y_<t, x). Also what SeqKD minimises, on the
teacher's responses (Kim and Rush 2016).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.training.settings import SupervisedSettings

if TYPE_CHECKING:
    from torch import Tensor

NEEDS_TEACHER = False


class ObjectiveSettings(SupervisedSettings):
    """SFT has no setting beyond those of supervised training."""


def token_losses(
    settings: ObjectiveSettings, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor
) -> Tensor:
    """Cross-entropy of each token, [N]; logits are [N, V], labels [N]."""
    logq = student_logits.log_softmax(-1)
    return -logq.gather(-1, labels[:, None]).squeeze(-1)
