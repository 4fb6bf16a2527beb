"""The losses of an update as one module, and the means that save memory around it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from distill.models.parts import head
from distill.on_policy.losses import packed_loss
from distill.on_policy.packing import MicroBatch
from distill.on_policy.passes import response_hidden
from distill.on_policy.plaintext import plaintext_loss

if TYPE_CHECKING:
    from distill.on_policy.objective import OwnSampleObjective
    from distill.on_policy.settings import OnPolicySettings


class UpdateLoss(nn.Module):
    """The objective's loss of rollouts, or lm_coef * L_PT of plain text.

    One module, so that a wrapper (DeepSpeed) sees every use of the student's weights.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        settings: OnPolicySettings,
        objective: OwnSampleObjective,
        vocabulary: int,
        progress: Callable[[], float],
        teacher_head: nn.Module | None = None,
    ) -> None:
        """The teacher is no part of the module: it is not trained. `teacher_head` stands in for its own head;
        `progress` tells the share of training done.
        """
        super().__init__()
        self.student = student
        self.settings, self.objective, self.vocabulary = settings, objective, vocabulary
        self.progress = progress
        # A tuple hides both from nn.Module, which would give their weights to the optimiser and to DeepSpeed.
        self._teacher = (teacher, teacher_head or head(teacher))

    def forward(self, batch: MicroBatch | Tensor) -> tuple[Tensor, Tensor]:
        """(loss, metrics [M]) of a micro-batch of rollouts, or of windows of plain text [B, L]."""
        teacher, teacher_head = self._teacher
        if isinstance(batch, Tensor):
            loss = self.settings.lm_coef * plaintext_loss(self.student, teacher, batch, self.settings)
            # No metrics of its own; the shape is that of rollouts, so that one wrapped forward serves both.
            return loss, torch.zeros(len(self.objective.metrics), device=loss.device)
        hidden = response_hidden(self.student, batch.ids, batch.positions)
        return packed_loss(
            self.objective,
            self.settings,
            hidden,
            head(self.student),
            teacher_head,
            batch.packed,
            self.vocabulary,
            self.progress(),
        )


class OffloadedTeacher:
    """A teacher in the CPU's memory while nobody samples from it; a copy of its head stays on the device."""

    def __init__(self, teacher: PreTrainedModel) -> None:
        """Move the teacher to the CPU; `loaded` moves it back to where it was."""
        self.teacher, self.device = teacher, teacher.device
        # Updates read kept states, so the head alone is needed; a copy, since the move below is in place.
        self.head = copy.deepcopy(head(teacher))
        nn.Module.to(teacher, "cpu")

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Inside, the whole teacher is where it computes."""
        nn.Module.to(self.teacher, self.device)
        try:
            yield
        finally:
            nn.Module.to(self.teacher, "cpu")


@contextmanager
def checkpointed(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Inside, each layer keeps its input alone and is computed again in the backward pass, as it was, no dropout.

    transformers' own switch wants a model in training mode, where dropout is on.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)] if enabled else []
    for layer in layers:
        # The instance's attribute hides the method of its class, and `del` shows it again.
        # Not reentrant: that form gives no gradient where no input needs one, as above frozen embeddings.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
