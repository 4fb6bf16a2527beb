"""Settings of training on rows, shared by every objective."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distill.models.settings import LoraSettings
from distill.project.settings import Settings


class SupervisedSettings(Settings):
    """One supervised run on prompts and responses; the global batch is part of the recipe."""

    learning_rate: Annotated[float, Field(gt=0, le=1)]
    """Peak of the cosine schedule."""
    min_learning_rate: Annotated[float, Field(ge=0)] = 1e-7
    """Where the cosine ends."""
    batch_size: Annotated[int, Field(ge=1)]
    """Responses an optimiser step, over all processes and accumulation steps together."""
    epochs: Annotated[int, Field(ge=1)]
    """Passes over the rows."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    evaluate_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between validations."""
    select: Literal["rouge_l", "loss"] = "rouge_l"
    """The checkpoint that is kept: highest validation Rouge-L, or lowest validation loss (MiniLLM's start).

    Where Rouge-L never varies, or can read hardly any reference, the loss decides."""
    lora: LoraSettings | None = None
    """Train an adapter of the base; null trains all weights."""


class SampledRowsSettings(SupervisedSettings):
    """The same on responses that the teacher sampled."""

    samples_per_prompt: Annotated[int, Field(ge=1)] = 1
    """1 is the paper's SeqKD; more is the honest control at MiniLLM's compute."""
