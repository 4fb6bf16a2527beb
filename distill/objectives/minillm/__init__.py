"""MiniLLM (Gu et al. 2024): reverse KL on own samples, by a policy gradient and an exact single step. q: student,
p: teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.objectives.minillm.settings import ObjectiveSettings

if TYPE_CHECKING:
    from distill.on_policy.objective import OwnSampleObjective

__all__ = ["LABEL", "NEEDS_TEACHER", "ObjectiveSettings", "on_own_samples"]

NEEDS_TEACHER = True
LABEL = "MiniLLM"


def on_own_samples() -> OwnSampleObjective:
    """Losses that need credit for later tokens, which only a finished collection gives: it has none on rows."""
    from distill.objectives.minillm.objective import MiniLLM

    return MiniLLM()
