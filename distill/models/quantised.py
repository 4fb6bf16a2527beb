"""Quantised checkpoints: unpacked to plain weights where the library can, refused otherwise.

What decides is the model that comes out: weights of the names and shapes of an ordinary model, all of them floating.
A quantised one would be trained in a few of its tensors only, or not at all, and saved as something else.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, AutoHfQuantizer, AutoQuantizationConfig
from transformers.quantizers.base import HfQuantizer

from distill.project.errors import ModelError
from distill.project.foreign import in_words
from distill.project.references import Reference

FIX = (
    "take the model's unquantised weights, or install what the library names and write them to a folder once: "
    "python -m commands.convert {source} FOLDER"
)


def unpacking_config(reference: Reference, cached: bool = False) -> Any:
    """The model's configuration, which asks for plain weights where the quantisation can give them.

    `cached` asks no hub.

    Raises: ModelError where it cannot; what the library raises where its packages are missing.
    """
    config = AutoConfig.from_pretrained(
        reference.name, revision=reference.revision or "main", local_files_only=cached, trust_remote_code=False
    )
    for part in (config, config.get_text_config(decoder=True)):
        stored = getattr(part, "quantization_config", None)
        if isinstance(stored, dict):
            # As an entry of the stored settings it is read with them, wherever the library does that.
            part.quantization_config = {**stored, **_way_back(stored, reference)}
    return config


def _way_back(stored: dict[str, Any], source: Reference) -> dict[str, Any]:
    """What asks for plain weights while loading; empty where they are made afterwards, or refused."""
    method = str(stored.get("quant_method") or "unnamed")
    kinds: list[Any] = [kind for name, kind in AUTO_QUANTIZER_MAPPING.items() if name in (method, f"{method}_4bit")]
    undone = [kind._dequantize is not HfQuantizer._dequantize for kind in kinds]
    while_loading = bool(kinds) and hasattr(AutoQuantizationConfig.from_dict(stored), "dequantize")
    if not kinds or not (while_loading or undone[0]):
        raise ModelError(
            f"{source} is quantised ({method}), which transformers cannot undo, and such weights cannot be trained on; "
            "take the model's unquantised weights"
        )
    wish = {"dequantize": True} if while_loading else {}
    quantiser = AutoHfQuantizer.from_config({**stored, **wish}, pre_quantized=True)
    quantiser.validate_environment(device_map=None, weights_only=True)
    return wish


def unpacked(model: PreTrainedModel, source: Reference, method: str) -> PreTrainedModel:
    """A loaded model with plain weights, and a configuration without a word of quantisation.

    Raises: ModelError when the library cannot unpack it.
    """
    what, fix = f"{source} is quantised ({method}) and cannot be unpacked here", FIX.format(source=source)
    packed = bool(getattr(model, "is_quantized", False))
    with in_words(what, fix):
        on_meta = model.device.type == "meta"
        if packed and not on_meta:
            # Without a dtype it would be the one that the scales are in.
            model = model.dequantize(dtype=model.config.dtype)
    if not (packed and on_meta) and (strange := _strange(model)):
        raise ModelError(f"{what} ({strange}); {fix}")
    return model


def _strange(model: PreTrainedModel) -> str:
    """The first difference from an ordinary model of the same configuration; empty without one."""
    for part in (model.config, model.config.get_text_config(decoder=True)):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            return f"{name} holds {str(parameter.dtype).removeprefix('torch.')}"
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(model.config, trust_remote_code=False)
    wanted = {name: tuple(parameter.shape) for name, parameter in plain.named_parameters()}
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    return f"{different[0]} is not as in an ordinary model" if different else ""
