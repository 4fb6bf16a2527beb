"""The loss of packed response tokens: an objective's loss of each position, summed with the tokens' weights.

Tokens of all responses in a micro-batch are packed into N; the output heads run on chunks of them, so that logits
[B, T, V] are never held. Shapes: N tokens, H and G hidden sizes of student and teacher, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from distill.losses.chunked_head import CHUNK_TOKENS, chunked_head_loss

if TYPE_CHECKING:
    from distill.on_policy.objective import OwnSampleObjective


@dataclass(frozen=True)
class Packed:
    """What the loss needs to know about N response tokens; every tensor is [N] but `teacher_hidden` [N, G]."""

    tokens: Tensor
    old_logprobs: Tensor
    """log q(y_t) when it was drawn."""
    behaviour_logprobs: Tensor
    """log p~(y_t)."""
    advantages: Tensor
    weights: Tensor
    """Each token's share in the mean, so that micro-batches and processes add up (trap 3)."""
    teacher_hidden: Tensor

    def slice(self, part: slice) -> Packed:
        """The same for some of the tokens."""
        return Packed(**{f.name: getattr(self, f.name)[part] for f in fields(self)})


def weighted_loss(
    objective: OwnSampleObjective,
    settings: Any,
    student_logits: Tensor,
    teacher_logits: Tensor,
    packed: Packed,
    progress: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(scalar loss, metrics [M]), both weighted sums over the tokens given; logits are [N, V]."""
    losses, metrics = objective.losses(settings, student_logits, teacher_logits, packed, progress)
    # Sums, not means: the divisor is in the weights, so that chunks of any size add up to the mean.
    return (losses * packed.weights).sum(), metrics @ packed.weights


def packed_loss(
    objective: OwnSampleObjective,
    settings: Any,
    student_hidden: Tensor,
    student_head: nn.Module,
    teacher_head: nn.Module,
    packed: Packed,
    vocabulary: int,
    progress: float = 0.0,
    chunk: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """(loss, metrics [M]) of packed tokens from `student_hidden` [N, H], heads applied chunk by chunk."""

    def loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        here = packed.slice(part)
        # The teacher is a constant of the loss: without a graph its logits go with the chunk.
        with torch.no_grad():
            # A resumed collection may come from a teacher of another precision.
            known = here.teacher_hidden.to(cast(Tensor, teacher_head.weight).dtype)
            teacher_logits = teacher_head(known)[:, :vocabulary]
        # Cut before any softmax: both distributions then sum to 1 over the same ids.
        return weighted_loss(objective, settings, logits[:, :vocabulary], teacher_logits, here, progress)

    return chunked_head_loss(student_hidden, student_head, loss, len(objective.metrics), chunk)
