"""Settings of models: the source of the weights, pretraining of fresh ones, LoRA."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distill.project.references import ModelReference
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

    source: ModelReference | None = None
    """Hub id or folder of a causal language model, with or without a LoRA `adapter`."""
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


class Taken(Settings):
    """A finished checkpoint from elsewhere, instead of training one."""

    source: ModelReference = Field(alias="from")
    """Hub id or folder, with or without a LoRA `adapter`."""


class LoraSettings(Settings):
    """Train low-rank additions to a frozen model's weights (Hu et al. 2021) instead of all weights, by peft."""

    r: Annotated[int, Field(ge=1)] = 8
    """Rank of each addition."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Additions are multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On the inputs of the additions, in supervised training; a student on its own samples has none."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] | None = None
    """Names of the layers that get an addition, e.g. `[q_proj, v_proj]`; null leaves them to peft, which takes the
    attention's projections of the architectures it knows. Never the output head or what is tied to it."""
    save: Literal["merged", "adapter"] = "merged"
    """`merged`: whole weights that any program loads, the adapter beside them. `adapter`: the adapter and a
    pointer to its base, which must come from elsewhere; smaller, but loading needs the base."""
