"""SeqKD: SFT on responses the teacher sampled for the training prompts (Kim and Rush 2016)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distill.objectives.sft import token_losses
from distill.training.settings import SupervisedSettings

__all__ = ["NEEDS_TEACHER", "ObjectiveSettings", "token_losses"]

NEEDS_TEACHER = False


class ObjectiveSettings(SupervisedSettings):
    """How many of the teacher's samples each prompt is trained on."""

    samples_per_prompt: Annotated[int, Field(ge=1)] = 1
    """1 is the paper's SeqKD; more is the honest control at MiniLLM's compute."""
