"""Settings of training on own samples, shared by every objective: where tokens come from, L_PT, the optimiser."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.models.settings import LoraSettings
from distill.project.settings import Settings

Beta = Annotated[float, Field(ge=0, lt=1)]


class OnPolicySettings(Settings):
    """One run on own samples: rollouts, how losses are summed, plain text, optimiser."""

    # Where the tokens come from.
    teacher_mix_alpha: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the teacher in the sampling distribution (Eq. 4); 0 samples from the student alone, 1 the teacher."""
    own_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of prompts that are answered by sampling (GKD's lambda); the rest keep the response of the data."""
    rollouts: Annotated[int, Field(ge=1)] = 256
    """Responses sampled a collection."""
    inner_epochs: Annotated[int, Field(ge=1)] = 4
    """Passes over the responses of one collection."""
    minibatch: Annotated[int, Field(ge=1)] = 64
    """Responses an optimiser step."""
    max_steps: Annotated[int, Field(ge=1)]
    """Optimiser steps in all."""
    normalise: Literal["tokens", "sequences"] = "tokens"
    """Mean over the valid tokens of a mini-batch, or sum a response and mean over responses (paper)."""

    # The language-modelling term.
    lm_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of L_PT on plain text; 0 switches it off."""
    lm_kd_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of soft cross-entropy against the teacher inside L_PT."""
    lm_batch: Annotated[int, Field(ge=1)] = 8
    """Plain-text sequences an optimiser step."""
    lm_length: Annotated[int, Field(ge=2)] = 64
    """Tokens of each."""

    # The optimiser.
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up."""
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Where the cosine ends."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Linear warm-up."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's two decay rates."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    evaluate_every: Annotated[int, Field(ge=1)] = 100
    """Optimiser steps between validations; the best validation Rouge-L is kept."""
    lora: LoraSettings | None = None
    """Train an adapter, the one of the student's start where there is one; null trains all weights."""

    @model_validator(mode="after")
    def _sound_run(self) -> OnPolicySettings:
        if self.rollouts % self.minibatch:
            raise ValueError(f"`rollouts` must be a multiple of `minibatch` ({self.minibatch})")
        if self.schedule == "cosine" and self.min_learning_rate > self.learning_rate:
            raise ValueError(f"`min_learning_rate` must not be over `learning_rate` ({self.learning_rate:g})")
        if self.lora is not None and self.lora.dropout:
            raise ValueError(
                "the student has no dropout on its own samples, or its ratio would not be 1; set `lora.dropout: 0`"
            )
        return self

    @property
    def steps_per_collection(self) -> int:
        """Optimiser steps between two collections; the number of processes does not enter (trap 10)."""
        return self.inner_epochs * self.rollouts // self.minibatch

    @property
    def needs_rows(self) -> bool:
        """Whether some prompts keep the response of the data."""
        return self.own_share < 1
