"""The student and the teacher of a run on own samples; the base of two adapters is loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from distill.models.checkpoints import Adapted, require_elsewhere
from distill.models.loading import load_model, load_weights
from distill.models.lora import add_adapter, read_adapter, require_untouched_head, same_shape
from distill.models.merging import merge_adapter, with_shared_weights
from distill.models.origins import Origin, origin, unmerged_origin
from distill.models.settings import LoraSettings


@dataclass(frozen=True)
class ModelPair:
    """Two models ready for a run."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    adapted: Adapted | None
    """How the student's adapter is to be saved."""
    shared: bool
    """Whether both stand on the same tensors."""


def load_pair(
    start: Path,
    teacher: Path,
    lora: LoraSettings | None,
    dtype: str,
    device: torch.device,
    seed: int,
    teacher_dtype: str | None = None,
    teacher_device: torch.device | None = None,
) -> ModelPair:
    """The student at its `start`, with an adapter to train where `lora` asks for one, and the finished teacher.

    Training goes on with the adapter of `start` where it has the shape that `lora` asks for and its base is known;
    otherwise a fresh one (drawn from `seed`) is added to the weights of `start`.

    `teacher_dtype` is the teacher's precision where it has one of its own; `teacher_device` where it is loaded, if it
    shares no weights with the student.

    Raises: ModelError as loading does.
    """
    teacher_dtype, teacher_device = teacher_dtype or dtype, teacher_device or device
    if lora is None:
        return ModelPair(_load(start, dtype, device), _load(teacher, teacher_dtype, teacher_device), None, shared=False)
    # Merged weights are split into base and adapter here, since only an adapter apart can be trained further.
    ours = unmerged_origin(start)
    goes_on = ours.adapter is not None and same_shape(ours.adapter, lora, ours.base)
    if not goes_on:
        # Merged weights stay merged then: they are what a fresh adapter is added to.
        ours = origin(start)
    outside = str(ours.base) != str(start)
    adapted = Adapted(lora, ours.base if outside and (goes_on or ours.adapter is None) else None)
    if lora.save == "adapter":
        require_elsewhere(adapted.base)
    student = load_weights(ours.base, dtype)
    torch.nn.Module.to(student, device)
    theirs = unmerged_origin(teacher)
    # Only weights that stay as they are can be shared.
    shared = str(theirs.base) == str(ours.base) and (goes_on or ours.adapter is None) and teacher_dtype == dtype
    # Before the student's own adapter: the copy must take the base alone.
    other = _adapted_copy(student, theirs) if shared else _load(teacher, teacher_dtype, teacher_device)
    if ours.adapter is not None:
        read_adapter(student, ours.adapter)
        if goes_on:
            require_untouched_head(student, str(ours.adapter))
        else:
            # Writes into the base's weights, and is reached only where the teacher does not share them.
            merge_adapter(student)
    if not goes_on:
        add_adapter(student, lora, seed)
    return ModelPair(student, other, adapted, shared)


def _adapted_copy(model: PreTrainedModel, wanted: Origin) -> PreTrainedModel:
    """A model of the same tensors with the adapter that `wanted` names, left apart from them."""
    copied = with_shared_weights(model)
    if wanted.adapter is not None:
        read_adapter(copied, wanted.adapter)
    return copied


def _load(folder: Path, dtype: str, device: torch.device) -> PreTrainedModel:
    model = load_model(folder, dtype)
    torch.nn.Module.to(model, device)
    return model
