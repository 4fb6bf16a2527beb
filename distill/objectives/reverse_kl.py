"""Reverse KL, KL(q || p) over the vocabulary at each position. p: teacher, q: student.

On the student's own samples this is the single-step term of MiniLLM (Gu et al. 2024, Eq. 5) and the full-vocabulary
form of on-policy distillation (Agarwal et al. 2024, beta = 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.project.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

NEEDS_TEACHER = True
LABEL = "Reverse KL"


class ObjectiveSettings(Settings):
    """Reverse KL's formula has no setting."""


def token_losses(
    settings: ObjectiveSettings, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, progress: float
) -> Tensor:
    """KL(q || p) at each position, [N]; logits are [N, V] over the shared vocabulary, labels [N] are not used."""
    from distill.losses.token_statistics import token_statistics

    assert teacher_logits is not None  # NEEDS_TEACHER
    return token_statistics(student_logits, teacher_logits, labels)[1]
