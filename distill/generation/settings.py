"""Decoding settings: one object, shared by validation during training and by the final evaluation (trap 11)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distill.project.seeds import Seeds
from distill.project.settings import Settings


class SamplingSettings(Settings):
    """How responses are drawn. The defaults are plain ancestral sampling, as in the paper."""

    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Divides the logits."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keep the most probable tokens up to this much probability; 1 keeps all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep this many of the most probable tokens; 0 keeps all."""


class EvaluationSettings(Settings):
    """The evaluation protocol: how often and how each prompt is answered."""

    seeds: Seeds = (10, 20, 30, 40, 50)
    """One response a prompt for each seed; scores are averaged over them."""
    sampling: SamplingSettings = SamplingSettings()
    """Shared with validation during training."""


class PseudoSettings(Settings):
    """The teacher's responses that SeqKD learns from."""

    samples_per_prompt: Annotated[int, Field(ge=1)] = 1
    """Responses drawn for each training prompt."""
    sampling: SamplingSettings = SamplingSettings()
    """Temperature 1 as in the paper unless written out."""
