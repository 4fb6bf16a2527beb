"""Adapters beside peft and merged: whatever their kind, the logits must stay what they are."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.models.parts import head
from distill.project.errors import ModelError
from distill.project.foreign import in_words

ADAPTER_NAME = "default"
"""The name of an adapter inside a model; peft can hold several."""
_MOST_TRAINED = 504
# Said where an adapter of a kind that this project does not know is met.
MERGE_ELSEWHERE = (
    "name the model that it was trained on; if it is that one, merge the two with peft "
    "(`PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)`, after "
    "`model.resize_token_embeddings(rows)` where tokens were added) and name the merged folder"
)
_PLAIN = "train it again as a plain LoRA, or fine-tune the whole model"


@torch.no_grad()
def sums(model: PreTrainedModel) -> list[float]:
    """A number for each weight, which changes with it; the meta device has none."""
    found = (parameter.double().abs().sum() for parameter in model.parameters())
    return [] if model.device.type == "meta" else [value.item() for value in found]


@torch.no_grad()
def by_peft(model: PreTrainedModel, folder: Path, ids: Tensor) -> Tensor:
    """Logits of peft's own model of this base and adapter, which may have other layers than `model` has."""
    from peft import PeftModel

    # Places for the adapter's values are drawn at random first.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = PeftModel.from_pretrained(model, str(folder))
    whole.eval()
    found: Tensor = whole(input_ids=ids).logits.float()
    return found


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits [N, 8, V] of the ids [N, 8], without dropout."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    found: Tensor = model(input_ids=ids).logits.float()
    for module, training in modes:
        module.training = training
    return found


def probe(model: PreTrainedModel) -> Tensor:
    """Ids [N, 8]: any few, and those of which an adapter trained the embeddings."""
    trained = [i for m in model.modules() for ids in getattr(m, "token_indices", {}).values() for i in ids]
    ids = [*range(1, 9), *trained[:_MOST_TRAINED], *([1] * (-len(trained[:_MOST_TRAINED]) % 8))]
    rows = cast(Tensor, head(model).weight).shape[0]
    return torch.tensor(ids, device=model.device).reshape(-1, 8) % rows


def require_same(before: Tensor, after: Tensor, what: str, dtype: torch.dtype = torch.float32) -> None:
    """Refuse logits that differ by more than rounding of `dtype` explains. Raises: ModelError; `what` opens it."""
    gap, most = (before - after).abs().max().item(), before.abs().max().item()
    # Products that are added to weights of half precision are rounded with them.
    if not gap <= max(1e-3, 8 * torch.finfo(dtype).eps) * (1 + most):
        raise ModelError(f"{what} (logits differ by up to {gap:.3g}); {MERGE_ELSEWHERE}")


def merge_adapter(model: PreTrainedModel, name: str = "the adapter") -> None:
    """Add the adapter's products to their weights, in place; nothing of peft stays in the model.

    Raises: ModelError when the merged weights would compute something else.
    """
    what = f"{name} cannot be merged into its model's weights"
    _require_own_tensors(model, what)
    with in_words(what, _PLAIN):
        if model.device.type == "meta":
            _merge(model)
            return
        ids = probe(model)
        before = logits(model, ids)
        _merge(model)
        require_same(before, logits(model, ids), what, model.dtype)


def _require_own_tensors(model: PreTrainedModel, what: str) -> None:
    """Refuse an adapter on weights that the model uses in two places: merged, it would change both.

    Raises: ModelError.
    """
    from peft.tuners.lora import LoraLayer

    users = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and any(users[id(p)] > 1 for p in module.get_base_layer().parameters()):
            raise ModelError(f"{what}: {name} shares its weights with another layer; {_PLAIN}")


def _merge(model: PreTrainedModel) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    done: list[str] = []
    # A list, because the tree changes under the walk.
    for name, module in list(model.named_modules()):
        if any(name.startswith(f"{above}.") for above in done):
            continue
        plain: Any = None
        if isinstance(module, AuxiliaryTrainingWrapper):
            plain = cast(Any, module).unload_and_optionally_merge_module(
                merge=True, safe_merge=False, adapter_names=[ADAPTER_NAME]
            )
        elif isinstance(module, BaseTunerLayer):
            cast(Any, module).merge()
            plain = module.get_base_layer()
        if plain is not None:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, plain)
            done.append(name)
    del cast(Any, model).peft_config


def merged_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights plus the adapter's products, by their names in a model without one; `model` stays unmerged.

    Raises: ModelError, as `merge_adapter`.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    twin = with_shared_weights(model)
    # Merging writes into the weights: the twin gets its own copy of those, tied ones the same.
    changed = [m.get_base_layer() for m in twin.modules() if isinstance(m, BaseTunerLayer)]
    copies = {id(p): nn.Parameter(p.detach().clone(), False) for layer in changed for p in layer.parameters()}
    for module in twin.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in copies:
                setattr(module, name, copies[id(parameter)])
    merge_adapter(twin)
    return dict(twin.state_dict())


def with_shared_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A second model of the same tensors: each can be given an adapter of its own, the weights exist once."""
    # deepcopy takes what its memo holds for copied already: modules are new, tensors stay the same objects.
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)
