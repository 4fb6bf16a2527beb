"""Loading causal language models, and making fresh ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation

from distill.models.lora import merge_adapter, read_adapter
from distill.models.origins import origin, require_weights
from distill.project.errors import ModelError
from distill.project.references import Reference


def load_model(source: Reference | Path, dtype: str = "float32") -> PreTrainedModel:
    """Load a causal language model from safetensors; a folder may hold a pointer to one, or an adapter for it.

    Raises: ModelError, ending with the fix, when there is none or it cannot be read.
    """
    found = origin(source)
    model = load_weights(found.base, dtype)
    if found.adapter is not None:
        read_adapter(model, found.adapter)
        merge_adapter(model)
    return model


def load_weights(reference: Reference, dtype: str = "float32") -> PreTrainedModel:
    """Load the weights that a reference names; follow no pointer and add no adapter.

    Raises: as `load_model`.
    """
    if reference.path is not None:
        require_weights(Path(reference.path))
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            reference.name,
            revision=reference.revision or "main",
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # refused below, with words
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"cannot load the model {reference} ({_reason(error)}); check the name and revision, that it is stored as "
            "safetensors (docs/models.md says how to convert), and that the hub is within reach or the files are in "
            "its local cache"
        ) from None
    model, found = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    # transformers would go on with random weights in these places.
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if absent:
        raise ModelError(
            f"{reference} has no fitting weights for {len(absent)} tensors that its config.json asks for "
            f"({', '.join(absent[:3])}, …); fetch it again, or correct its config.json"
        )
    fuse_activations(model)
    return model


def fuse_activations(model: PreTrainedModel) -> None:
    """Put torch's one kernel for the tanh form of GELU where a model has it written out, as GPT-2 does.

    The same formula to rounding in two passes over the memory instead of sixteen, and one tensor kept for the backward
    pass instead of four. The model's config stays as it is.
    """
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, FastGELUActivation | NewGELUActivation):
                setattr(module, name, GELUTanh())


def initialise_model(init: dict[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A fresh model of the architecture `init`, its weights drawn from `seed` alone.

    Raises: ModelError when transformers does not know the architecture or one of its settings.
    """
    settings = dict(init)
    model_type = settings.pop("model_type")
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id or tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        known = AutoConfig.for_model(str(model_type))
    except ValueError:
        raise ModelError(f"`init.model_type: {model_type}` is unknown to transformers; use e.g. gpt2") from None
    unknown = [name for name in settings if name not in known.to_dict() and name not in known.attribute_map]
    if unknown:
        raise ModelError(f"`init` has settings {model_type} does not know: {', '.join(unknown)}; remove them")
    try:
        config = AutoConfig.for_model(model_type, **{**ids, **settings})
        if config.num_hidden_layers < 1:
            raise ValueError("it would have no layer")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))
    except Exception as error:  # noqa: BLE001  every architecture refuses a value in a way of its own
        raise ModelError(f"`init` is no model that {model_type} can be ({_reason(error)}); correct it") from None
    return model


def _reason(error: Exception) -> str:
    """A library's message in one line."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
