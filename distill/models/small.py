"""A small random model of another model's kind: its configuration with all widths divided and few layers.

Rates, kinds of layers and numbers of heads stay, so whatever the architecture does to a text the small one does too.
Nothing is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig, PreTrainedModel

_MOST_PARAMETERS = 6e7
_DIVISORS = (64, 32, 16, 8, 4, 2, 1)
_VOCABULARY = 96
# A window that a text of ten tokens leaves behind.
_WINDOW = 4
_FEWEST_LAYERS = 2
# Narrower ones have heads of a single number, which no rotation turns.
_NARROWEST = 16
# By the words in a setting's name: one divisor for all widths keeps every relation between them.
_LAYERS = re.compile(r"^(n|num)_(hidden_)?layers?$|^n_layer$|(encoder|decoder)_layers$|^depth$")
_WIDTH = re.compile(r"(^|_)(dim|size|rank|width|channels|embd|embed|inner|model|d|ffn|hidden)(_|$)")
_NO_WIDTH = re.compile(
    r"vocab|patch|image|video|kernel|conv\d?d|window|chunk|block|batch|context|group|state|layer_input"
)
_WINDOWED = re.compile(r"(^|_)(window|window_size|chunk_size)$")


def small_model(config: PreTrainedConfig) -> PreTrainedModel | None:
    """A random model in float32 with a vocabulary of 96; None where the configuration cannot be made small."""
    left_out = ("quantization_config", "auto_map")
    written = {name: value for name, value in config.to_dict().items() if name not in left_out}
    for divisor in _DIVISORS:
        try:
            if divisor > 1 and config.get_text_config(decoder=True).hidden_size < divisor * _NARROWEST:
                continue
            model = _made(type(config), _shrunken(written, divisor, _layers_kept(config)))
        except Exception:  # noqa: BLE001  a constructor reports its fault in a way of its own; another divisor may do
            continue
        if model is not None:
            return model
    return None


def _made(config_kind: type[PreTrainedConfig], written: Mapping[str, Any]) -> PreTrainedModel | None:
    config = config_kind.from_dict(dict(written))

    def build() -> PreTrainedModel:
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        return cast(PreTrainedModel, made)

    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build().parameters())
    if count > _MOST_PARAMETERS:
        return None
    # The numbers of a run are drawn as if no such model had been made.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` would begin a GPU's draws anew as well
        model = build()
        model.eval()
        for parameter in model.parameters():
            # Wide enough that a wrong mask or position moves every score.
            inputs = parameter.shape[-1] if parameter.dim() > 1 else 4
            parameter.add_(torch.randn_like(parameter) / max(4, inputs) ** 0.5)
        if not model(input_ids=torch.arange(1, 9)[None]).logits.isfinite().all():
            return None
    return model


def _layers_kept(config: PreTrainedConfig) -> int:
    """The first layers that show every kind of layer."""
    kinds = getattr(config.get_text_config(decoder=True), "layer_types", None)
    if kinds is None:
        kinds = [type(layer).__name__ for layer in DynamicCache(config=config).layers]
    return max(_FEWEST_LAYERS, *(kinds.index(kind) + 1 for kind in set(kinds)))


def _shrunken(written: Mapping[str, Any], divisor: int, layers: int) -> dict[str, Any]:
    before = next((value for name, value in written.items() if _LAYERS.search(name) and isinstance(value, int)), None)
    return {name: _setting(name, value, divisor, layers, before) for name, value in written.items()}


def _setting(name: str, value: Any, divisor: int, layers: int, before: int | None) -> Any:
    """One setting of the small model."""
    if isinstance(value, Mapping):
        if all(str(inner).isdigit() for inner in value):  # by the layer's number
            return {inner: content for inner, content in value.items() if int(inner) < layers}
        return _shrunken(value, divisor, layers)
    if isinstance(value, list) and value and len(value) == before:
        return value[:layers]
    if isinstance(value, list) and "section" in name:  # parts of a head's width
        return [part // divisor if isinstance(part, int) else part for part in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if name.endswith("token_id"):
        return 0
    if "vocab" in name:
        return min(value, _VOCABULARY)
    if _LAYERS.search(name):
        return min(value, layers)
    if _WINDOWED.search(name):
        return min(value, _WINDOW)
    if _WIDTH.search(name) and not _NO_WIDTH.search(name) and value >= divisor:
        return -(-value // divisor)
    return value
