"""Whether loaded weights are the language model that their files promise: the right head, nothing left over, finite."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from distill.models.stored import configuration, is_floating, mostly_packed, stored_file, stored_tensors
from distill.project.errors import ModelError
from distill.project.references import Reference

_ALONE = "if its language model is what you want, save that alone: python -m commands.convert --language-model-alone"


def require_language_model(reference: Reference, cached: bool = False) -> None:
    """Refuse a model that was saved for another purpose: scores, classes, embeddings of text.

    Raises: ModelError naming what it was saved as.
    """
    if stored_file(reference, "adapter_config.json", cached) is not None:
        # transformers would load whatever base the adapter names, and say nothing.
        raise ModelError(
            f"{reference} is an adapter, or a model with one beside it; name both: `adapter: {reference}` beside the "
            "`path` or `hub` of the model that it was trained on"
        )
    for name in configuration(reference, cached=cached).get("architectures") or []:
        kind = getattr(transformers, str(name), None)
        # Only a class with a head over the vocabulary can generate.
        if isinstance(kind, type) and issubclass(kind, PreTrainedModel) and not kind.can_generate():
            raise ModelError(
                f"{reference} is no language model: it was saved as {name}, whose weights were trained for another "
                f"output than the next token; take the language model that it was made from, or, {_ALONE} "
                f"{reference} FOLDER"
            )
    if stored_file(reference, "modules.json", cached) is not None:
        raise ModelError(
            f"{reference} is no language model: modules.json beside it says that it embeds sentences; take the "
            f"language model that it was made from, or, {_ALONE} {reference} FOLDER"
        )


def require_nothing_over(reference: Reference, unexpected: Collection[str], alone: bool) -> None:
    """Refuse weights that the model has no place for; `alone` accepts those of another head or part.

    Causal masks and single numbers, which old versions saved, are no weights; nor are the parts of a model that sees
    or hears beside its language model.

    Raises: ModelError naming them.
    """
    config = stored_file(reference, "config.json", cached=True)
    stored = {} if config is None else stored_tensors(config.parent)
    over = [name for name in sorted(unexpected) if _is_weight(*stored.get(name, ("F32", (2,))))]
    if not over:
        return
    places = {name.rpartition(".")[0] for name in stored.keys() - set(unexpected)}
    inside = [name for name in over if _is_inside(name, places)]
    several = any(isinstance(part, dict) and "model_type" in part for part in configuration(reference).values())
    shown = f"{len(inside or over)} tensors of its files have no place in it ({', '.join((inside or over)[:3])}, …)"
    if inside:
        raise ModelError(
            f"{reference} is not the model that its config.json describes: {shown}; correct its config.json, or fetch "
            "the model again"
        )
    if not (alone or several):
        raise ModelError(
            f"{reference} is more than a language model: {shown}; take the language model that it was made from, or, "
            f"{_ALONE} {reference} FOLDER"
        )


def _is_weight(kind: str, shape: tuple[int, ...]) -> bool:
    mask = len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return is_floating(kind) and shape not in ((), (1,)) and not mask


def _is_inside(name: str, places: set[str]) -> bool:
    """Whether a tensor belongs to a module of which others are filled (`places`), or to one more of a list of those."""
    parts = name.split(".")[:-1]
    above = {".".join(parts[: i + 1]) for i in range(len(parts))}
    # `model.layers` of `model.layers.7.mlp`: the numbers of a list differ, so any filled layer counts.
    lists = {".".join(parts[:i]) + "." for i, part in enumerate(parts) if part.isdigit() and i > 0}
    return bool(above & places) or any(place.startswith(start) for start in lists for place in places)


def require_plain_numbers(reference: Reference) -> None:
    """Refuse stored weights that need scales which config.json does not speak of. Raises: ModelError."""
    config = stored_file(reference, "config.json", cached=True)
    if config is not None and mostly_packed(stored_tensors(Path(config).parent)):
        raise ModelError(
            f"{reference} holds quantised weights, and its config.json has no `quantization_config` that says how to "
            "read them; take the model's unquantised weights, or its complete config.json"
        )


@torch.no_grad()
def require_finite(model: PreTrainedModel, name: str) -> None:
    """Refuse weights that are NaN or infinite. Raises: ModelError naming them."""
    wrong = [place for place, values in model.named_parameters() if not bool(torch.isfinite(values).all())]
    if wrong:
        raise ModelError(
            f"{name} has weights that are no finite numbers in {len(wrong)} tensors ({', '.join(wrong[:3])}, …); fetch "
            "or save it again: a run that diverged, or a conversion to float16, leaves such weights"
        )
