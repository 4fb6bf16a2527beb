"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.on_policy.settings import OnPolicySettings


def learning_rate(settings: OnPolicySettings, step: int) -> float:
    """Learning rate of optimiser step `step`, counted from 0: linear warm-up, then constant or cosine."""
    peak, floor = settings.learning_rate, settings.min_learning_rate
    if step < settings.warmup_steps:
        return peak * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return peak
    span = max(1, settings.max_steps - settings.warmup_steps)
    share = min(1.0, (step - settings.warmup_steps) / span)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * share))
