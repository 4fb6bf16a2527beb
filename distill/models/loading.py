"""Loading causal language models, and making fresh ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.utils import logging as transformers_logging

from distill.models.lora import read_adapter
from distill.models.merging import merge_adapter
from distill.models.origins import origin, require_weights
from distill.models.quantised import FIX, unpacked, unpacking_config
from distill.models.soundness import (
    require_finite,
    require_language_model,
    require_nothing_over,
    require_plain_numbers,
)
from distill.models.stored import configuration, has_weights_here, quantisation
from distill.project.errors import ModelError
from distill.project.foreign import in_words, reason
from distill.project.references import Reference

_FIX = (
    "check the name and revision, that it is stored as safetensors (docs/models.md says how to convert), and that the "
    "hub is within reach or the files are in its local cache"
)


def load_model(source: Reference | Path, dtype: str = "float32", alone: bool = False) -> PreTrainedModel:
    """Load a causal language model from safetensors; a folder may hold a pointer to one, or an adapter for it.

    `alone` takes the language model out of one that was saved for another purpose.

    Raises: ModelError, ending with the fix, when there is none or it cannot be read.
    """
    found = origin(source)
    model = load_weights(found.base, dtype, alone)
    if found.adapter is not None:
        read_adapter(model, found.adapter)
        merge_adapter(model, str(found.adapter))
    return model


def load_weights(reference: Reference, dtype: str = "float32", alone: bool = False) -> PreTrainedModel:
    """Load the weights that a reference names; follow no pointer and add no adapter.

    Raises: as `load_model`.
    """
    model = _load(reference, dtype, alone)
    require_finite(model, str(reference))
    fuse_activations(model)
    return model


def rehearse(source: Reference | Path, dtype: str = "float32", cached: bool = False) -> PreTrainedModel:
    """Load a model as `load_model` does, on torch's meta device: everything but its numbers, in a second or two.

    Of a hub's model that is not here yet only the configuration is fetched. `cached` asks no hub.

    Raises: ModelError, as `load_model` would; NaN alone goes unseen.
    """
    found = origin(source)
    if has_weights_here(found.base):
        model = _load(found.base, dtype, device_map="meta", local_files_only=True)
    else:
        model = _skeleton(found.base, cached)
    if found.adapter is not None:
        read_adapter(model, found.adapter)
        merge_adapter(model, str(found.adapter))
    return model


def quiet_libraries() -> None:
    """Turn off transformers' advice and progress bars: a command shows lines and one bar of its own."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _skeleton(reference: Reference, cached: bool) -> PreTrainedModel:
    """A model without numbers, from its configuration alone."""
    require_language_model(reference, cached)
    with in_words(f"cannot load the model {reference}", _FIX):
        config = AutoConfig.from_pretrained(
            reference.name,
            revision=reference.revision or "main",
            local_files_only=cached,
            trust_remote_code=False,
        )
        if quantisation(config.to_dict()) is not None:
            unpacking_config(reference, cached)
        with torch.device("meta"):
            return cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, trust_remote_code=False))


def _load(reference: Reference, dtype: str, alone: bool = False, **extra: Any) -> PreTrainedModel:
    cached = bool(extra.get("local_files_only"))
    if reference.path is not None:
        require_weights(Path(reference.path))
    if not alone:
        require_language_model(reference, cached)
    method = quantisation(configuration(reference, cached=cached))
    what, fix = f"cannot load the model {reference}", _FIX
    quiet_libraries()
    if method is not None:
        what, fix = f"{what}, which is quantised ({method})", FIX.format(source=reference)
    with in_words(what, fix):
        loaded = AutoModelForCausalLM.from_pretrained(
            reference.name,
            revision=reference.revision or "main",
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # refused below, with words
            output_loading_info=True,
            **extra,
            **({} if method is None else {"config": unpacking_config(reference, cached)}),
        )
    model, found = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    if method is None:
        require_plain_numbers(reference)
    # transformers would go on with random weights in these places.
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if absent:
        raise ModelError(
            f"{reference} has no fitting weights for {len(absent)} tensors that its config.json asks for "
            f"({', '.join(absent[:3])}, …); fetch it again, or correct its config.json"
        )
    require_nothing_over(reference, found["unexpected_keys"], alone)
    return model if method is None else unpacked(model, reference, method)


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
            model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    except Exception as error:  # noqa: BLE001  every architecture refuses a value in a way of its own
        raise ModelError(f"`init` is no model that {model_type} can be ({reason(error)}); correct it") from None
    return model
