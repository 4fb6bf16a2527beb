"""Settings of models: the source of the weights, the layers kept of it, pretraining of fresh ones, LoRA."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distill.project.references import ModelReference
from distill.project.settings import Settings

Dtype = Literal["float32", "bfloat16", "float16"]


def _layer_numbers(content: Any) -> Any:
    """`[0-2, 5]`, `"0-2, 5"` or `[0, 1, 2, 5]` as numbers."""
    parts = content.split(",") if isinstance(content, str) else content
    if not isinstance(parts, list | tuple):
        return content
    numbers: list[Any] = []
    for part in parts:
        found = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part) if isinstance(part, str) else None
        if found is None:
            numbers.append(part)
        else:
            first, last = int(found[1]), int(found[2] or found[1])
            if last < first:
                raise ValueError(f"`{part}` counts backwards; write `{last}-{first}`")
            numbers += range(first, last + 1)
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise ValueError("give numbers of layers, from 0, and spans of them: [0-9, 20-29]")
    if numbers != sorted(set(numbers)):
        raise ValueError("give each layer once, in the order of the model")
    return tuple(numbers)


def spans(indices: Sequence[int]) -> str:
    """Numbers as they are written in `keep_layers`, e.g. `0-9, 20-29`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


LayerNumbers = Annotated[tuple[int, ...], BeforeValidator(_layer_numbers), Field(min_length=1)]


class PretrainSettings(Settings):
    """Language modelling on the family's plain-text corpus, for models that start from random weights or are cut."""

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
    keep_layers: LayerNumbers | None = None
    """Layers of `source` that the model keeps, counted from 0, e.g. `[0-9, 20-29]`; null keeps all."""
    drop_layers: LayerNumbers | None = None
    """The same by the layers that it loses."""
    init: dict[str, Any] | None = None
    """Configuration of a fresh model in transformers' own words, e.g. `{model_type: gpt2, n_layer: 2}`;
    vocabulary and special ids come from the family's tokenizer."""
    pretrain: PretrainSettings | None = None
    """Pretraining on the corpus of a fresh or cut model; none leaves the weights as they are."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSettings:
        if (self.source is None) == (self.init is None):
            raise ValueError("give exactly one of `source` and `init`")
        if self.init is not None and "model_type" not in self.init:
            raise ValueError("`init` needs a `model_type`, e.g. gpt2, opt, llama or qwen2")
        if self.keep_layers is not None and self.drop_layers is not None:
            raise ValueError("`keep_layers` and `drop_layers` say the same; give one of them")
        if self.source is None and self.is_cut:
            raise ValueError("`keep_layers` and `drop_layers` cut a `source`; an `init` says how many it has")
        if self.source is not None and self.pretrain is not None and not self.is_cut:
            raise ValueError("`pretrain` is for fresh and cut models; remove it or use `init`")
        return self

    @property
    def is_cut(self) -> bool:
        """Whether only some layers of the source are kept."""
        return self.keep_layers is not None or self.drop_layers is not None

    def kept_layers(self, count: int) -> tuple[int, ...]:
        """The layers that are kept of a source with `count`; numbers that it lacks stay, to be refused later."""
        if self.keep_layers is not None:
            return self.keep_layers
        dropped = self.drop_layers or ()
        beyond = [index for index in dropped if index >= count]
        return tuple([index for index in range(count) if index not in dropped] + beyond)


class Taken(Settings):
    """A finished checkpoint from elsewhere, instead of training one."""

    source: ModelReference = Field(alias="from")
    """Hub id or folder, with or without a LoRA `adapter`."""
    copied: bool = Field(default=False, alias="copy")
    """Write its weights into runs/, in the recipe's `dtype`, instead of pointing to them: for another machine, which
    pulls runs/ from a DVC remote and has no such folder."""


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
