"""A student cut from another model: some of its layers, everything else as it was."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from distill.models.settings import spans
from distill.project.errors import ModelError
from distill.project.foreign import in_words


def layer_count(model: PreTrainedModel) -> int:
    """Layers of a model, as its configuration counts them."""
    return int(model.config.get_text_config().num_hidden_layers)


def cut(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """The same model with the layers `kept` (from 0, in their order) and no others; the weights are shared.

    It is built from its own, shorter configuration, so that it is what `from_pretrained` makes of it later: a layer
    may depend on its own number.

    Raises: ModelError when the model has no such layer, or cannot be built with fewer.
    """
    count = layer_count(model)
    absent = [index for index in kept if index >= count]
    if absent:
        raise ModelError(
            f"the model has {count} layers, 0 to {count - 1}, and no layer {absent[0]}; correct `keep_layers` or "
            "`drop_layers`"
        )
    if not kept:
        raise ModelError(f"none of the model's {count} layers would be left; keep one at least")
    prefix = _prefix(model, count)
    places = {index: place for place, index in enumerate(kept)}
    weights = {}
    for name, tensor in model.state_dict().items():
        found = re.fullmatch(rf"({re.escape(prefix)}\.)(\d+)(\..*)", name)
        if found is None:
            weights[name] = tensor
        elif int(found[2]) in places:
            weights[f"{found[1]}{places[int(found[2])]}{found[3]}"] = tensor
    config = _shortened(model.config, count, kept)
    what = f"{type(model).__name__} cannot be cut to the layers {spans(kept)}"
    # Its first weights would be thrown away: they are not drawn, which takes seconds and would move later draws.
    with in_words(what, "keep them all, or give a student of its own"), no_init_weights():
        made = AutoModelForCausalLM.from_config(config, dtype=model.dtype, trust_remote_code=False)
        short = cast(PreTrainedModel, made)
        short.load_state_dict(weights, strict=True, assign=True)
    short.tie_weights()
    if model.generation_config is not None:
        short.generation_config = copy.deepcopy(model.generation_config)
    short.train(model.training)
    return short


def _prefix(model: PreTrainedModel, count: int) -> str:
    """The name of the list of layers."""
    lists = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    # A layer may hold a list of as many parts itself; the list of layers is outside of it.
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise ModelError(
            f"{type(model).__name__} does not keep its {count} layers in one list, so it cannot be cut; give a student "
            "of its own"
        )
    return str(outer[0])


def _shortened(config: PreTrainedConfig, count: int, kept: Sequence[int]) -> PreTrainedConfig:
    """The configuration of the cut model: fewer layers, and the kept ones' entries of whatever is listed by layer."""
    short = copy.deepcopy(config)
    text: Any = short.get_text_config()
    listed = {
        name: [value[index] for index in kept]
        for name, value in vars(text).items()
        if isinstance(value, list | tuple) and len(value) == count and name not in ("architectures", "keys_to_ignore")
    }
    for name, value in listed.items():
        setattr(text, name, value)
    text.num_hidden_layers = len(kept)
    return short
