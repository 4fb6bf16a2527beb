"""LoRA (Hu et al. 2021) by peft: a low-rank addition to some of a frozen model's layers.

Additions are injected in place, so that the model's backbone and head stay where other code finds them. Only work on
an adapter imports peft: a machine without it runs everything else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

from distill.models.merging import (
    ADAPTER_NAME,
    MERGE_ELSEWHERE,
    by_peft,
    logits,
    probe,
    require_same,
    sums,
    with_shared_weights,
)
from distill.models.origins import ADAPTER_CONFIG
from distill.models.parts import head
from distill.models.settings import LoraSettings
from distill.models.stored import configuration
from distill.project.errors import ModelError
from distill.project.files import read_json, write_json
from distill.project.foreign import in_words
from distill.project.references import Reference

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# The prefix of the modules' names in peft's own files.
_PREFIX = "base_model.model."


def add_adapter(model: PreTrainedModel, settings: LoraSettings, seed: int) -> None:
    """Freeze `model` and add fresh trainable low-rank layers to it; its outputs stay the same.

    Raises: ModelError when the targets name no layer, or the output head.
    """
    config = _configuration(settings)
    _keep_to_text(config, model)
    # peft draws A and sets B to 0, so (alpha / r) B A starts at 0. The generator is put back afterwards: an adapter
    # moves no other draw of the run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(model, config, "`lora.targets`")
    require_untouched_head(model)


def read_adapter(model: PreTrainedModel, source: Reference) -> None:
    """Add an adapter of peft's format to `model`; its layers can be trained on.

    Whatever kind of LoRA it is, its logits on a few tokens are compared with those of peft's own model.

    Raises: ModelError, ending with the fix, when there is none, it is no LoRA, or it does not fit the model.
    """
    folder = _folder(source)
    known = configuration(Reference(path=str(folder)), ADAPTER_CONFIG)
    if known.get("peft_type") != "LORA" or known.get("modules_to_save"):
        raise ModelError(
            f"{source} holds no LoRA adapter that can be used ({ADAPTER_CONFIG} must say `peft_type: LORA` and no "
            "`modules_to_save`); correct the path, or merge it into its model with peft and name the merged folder"
        )
    weights = _stored(source, folder)
    twin, before = with_shared_weights(model), sums(model)
    with in_words(f"{source} does not fit {type(model).__name__}", MERGE_ELSEWHERE):
        _load_into(model, folder, weights, source)
        if model.device.type == "meta":
            return
        if before != sums(twin):
            raise ModelError(f"{source} changes its model's own weights when it is added to them; {MERGE_ELSEWHERE}")
        ids = probe(model)
        require_same(by_peft(twin, folder, ids), logits(model, ids), f"{source} computes otherwise than in peft")


def _stored(source: Reference, folder: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{source}: {ADAPTER_WEIGHTS} cannot be read ({error}); adapters are loaded from safetensors only: "
            "save it again with peft's `save_pretrained`"
        ) from None
    if wrong := [name for name, values in weights.items() if not bool(torch.isfinite(values).all())]:
        raise ModelError(f"{source} has values that are no finite numbers ({wrong[0]}, …); fetch or train it again")
    return weights


def _load_into(model: PreTrainedModel, folder: Path, weights: dict[str, Tensor], source: Reference) -> None:
    from peft import LoraConfig, set_peft_model_state_dict

    _inject(model, LoraConfig.from_pretrained(str(folder)), str(source), MERGE_ELSEWHERE)
    result: Any = set_peft_model_state_dict(
        model, {name.removeprefix(_PREFIX): values for name, values in weights.items()}, adapter_name=ADAPTER_NAME
    )
    # The file rightly lacks the base's own weights; an addition that it lacks would stay at its random start.
    absent = [name for name in result.missing_keys if ".lora_" in name]
    if result.unexpected_keys or absent:
        strange = [*result.unexpected_keys, *absent]
        raise ModelError(
            f"{source} does not fit the model: {len(strange)} tensors have no counterpart ({strange[0]}, …); "
            "name the model that the adapter was trained on"
        )


def _configuration(settings: LoraSettings) -> Any:
    from peft import LoraConfig

    targets = settings.targets if settings.targets is None or isinstance(settings.targets, str) else [*settings.targets]
    return LoraConfig(
        r=settings.r, lora_alpha=cast(Any, settings.alpha), lora_dropout=settings.dropout, target_modules=targets
    )


def _keep_to_text(config: Any, model: PreTrainedModel) -> None:
    """Aim at the text model alone, where it is a part of a larger one (with a vision tower, say)."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOICES

    text = model.config.get_text_config(decoder=True)
    if text is model.config:
        return
    if config.target_modules is None:
        # peft knows the larger model's name alone, and chooses for the text model's.
        config.target_modules = CHOICES.get(text.model_type)
    inside = set(model.get_decoder().modules())
    others = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part not in inside]
    config.exclude_modules = [name for name in others if model.get_submodule(name) is not head(model)] or None


def _inject(model: PreTrainedModel, config: Any, source: str, fix: str = "correct `targets`") -> None:
    from peft import inject_adapter_in_model

    # A fresh name for each model: names of an adapter's file stand for whatever that file was called.
    config.inference_mode = False
    if type(model).__name__.startswith("GPT2"):
        config.fan_in_fan_out = True  # its projections are stored transposed; peft would find out and warn
    with in_words(f"{source} and {type(model).__name__} do not fit", fix):
        inject_adapter_in_model(config, model, adapter_name=ADAPTER_NAME)
    for name, parameter in model.named_parameters():
        # Half precision would lose most updates of an addition; the layer casts its input.
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def _folder(source: Reference) -> Path:
    if source.path is not None:
        return Path(source.path)
    fix = "check the name and revision, and that the hub is within reach or the files are in its local cache"
    with in_words(f"cannot fetch the adapter {source}", fix):
        files = [cached_file(source.name, name, revision=source.revision) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    return Path(str(files[0])).parent


def require_untouched_head(model: PreTrainedModel, source: str = "`lora.targets`") -> None:
    """Refuse an adapter on the output head: MiniLLM's loss takes the head's own weight and would miss the addition.

    Raises: ModelError naming the layer, and `source` as the adapter's origin.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    # The same tensor, not the same name: a tied embedding is the head under another one.
    weight = head(model).weight
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and cast(Any, module.get_base_layer()).weight is weight:
            raise ModelError(f"{source} takes in {name}, the output head or what is tied to it; leave it out")


def has_adapter(model: nn.Module) -> bool:
    """Whether the model has an adapter that is not merged."""
    return any(".lora_" in name for name, _ in model.named_parameters())


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training changes, by name: all, or the adapter's. A tied head stands there once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_adapter(model: PreTrainedModel, folder: Path, base: Reference | None) -> None:
    """Write the model's adapter in peft's format; `base` is recorded as its model.

    Raises: OSError when the folder cannot be written.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True)
    found: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=ADAPTER_NAME)
    tensors = {f"{_PREFIX}{name}": values.detach().cpu().contiguous() for name, values in sorted(found.items())}
    save_file(tensors, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    known = dict(cast(Any, model).peft_config[ADAPTER_NAME].to_dict())
    known["base_model_name_or_path"] = None if base is None else base.name
    known["revision"] = None if base is None else base.revision
    known["inference_mode"] = True
    # Sets have no order, and the same stage must write the same bytes.
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in known.items()}
    write_json(folder / ADAPTER_CONFIG, dict(sorted(plain.items())))


def same_shape(source: Reference, settings: LoraSettings, base: Reference) -> bool:
    """Whether `settings` would give `base` an adapter like that of `source`, so that training can go on with it."""
    if source.path is None:
        return False
    folder = Path(source.path)
    known = read_json(folder / ADAPTER_CONFIG)
    # Alpha scales what the tensors mean; dropout belongs to the training and may differ.
    if (known["r"], known["lora_alpha"]) != (settings.r, settings.alpha):
        return False
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as weights:
        return set(weights.keys()) == _names(base, settings)


def _names(base: Reference, settings: LoraSettings) -> set[str]:
    """Names of the tensors in an adapter that `settings` would make; null and `all-linear` leave them to peft."""
    from peft import get_peft_model_state_dict

    config = AutoConfig.from_pretrained(base.name, revision=base.revision or "main", trust_remote_code=False)
    # Names alone are wanted: the meta device gives tensors without memory.
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        _inject(skeleton, _configuration(settings), "`lora.targets`")
    return {f"{_PREFIX}{name}" for name in get_peft_model_state_dict(skeleton, adapter_name=ADAPTER_NAME)}
