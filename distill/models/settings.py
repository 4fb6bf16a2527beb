"""Settings of models: where the weights come from, and how fresh ones are pretrained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distill.project.references import Reference
from distill.project.settings import Settings

Dtype = Literal["float32", "bfloat16", "float16"]


class PretrainSettings(Settings):
    """Language modelling on the family's plain-text corpus, for models that start from random weights."""

    steps: Annotated[int, Field(ge=1)]
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Sequences a step."""
    sequence_length: Annotated[int, Field(ge=8)] = 80
    """Tokens a sequence."""
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    """Peak of the cosine schedule."""


class ModelSettings(Settings):
    """A model taken from somewhere, or initialised from an architecture."""

    source: Reference | None = None
    """Hub id or folder of a causal language model."""
    init: dict[str, Any] | None = None
    """Configuration of a fresh model in transformers' own words, e.g. `{model_type: gpt2, n_layer: 2}`;
    vocabulary and special ids come from the family's tokenizer."""
    pretrain: PretrainSettings | None = None
    """Pretraining of a fresh model on the corpus; none leaves the random weights."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSettings:
        if (self.source is None) == (self.init is None):
            raise ValueError("give exactly one of `source` and `init`")
        if self.init is not None and "model_type" not in self.init:
            raise ValueError("`init` needs a `model_type`, e.g. gpt2, opt, llama or qwen2")
        if self.source is not None and self.pretrain is not None:
            raise ValueError("`pretrain` is for fresh models; remove it or use `init`")
        return self
