"""A mini-batch of a collection as micro-batches of packed response tokens, and the check of what the decode knew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.models.parts import label_logprobs
from distill.on_policy.losses import Packed
from distill.on_policy.passes import response_hidden, right_pad
from distill.parallel.processes import ALONE, Processes
from distill.project.errors import TrainingError

if TYPE_CHECKING:
    from distill.on_policy.objective import OwnSampleObjective
    from distill.on_policy.rollouts import Collection
    from distill.on_policy.settings import OnPolicySettings

# Largest difference in log-probability between decode and teacher-forced pass: rounding, not a wrong mask.
AGREEMENT = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded sequences [B, P+T] and where their response tokens' predictions lie among the B * (P+T)."""

    ids: Tensor
    positions: Tensor
    """Flat indices [N] of the positions that predict the packed tokens."""
    packed: Packed
    real: int
    """How many of the B * (P+T) positions are no padding."""


def micro_batches(
    collection: Collection,
    chosen: Sequence[int],
    settings: OnPolicySettings,
    objective: OwnSampleObjective,
    size: int,
    device: torch.device,
    processes: Processes = ALONE,
) -> list[MicroBatch]:
    """Split one mini-batch into micro-batches of similar length; together they are exactly its mean.

    Whitening and normalisation see the whole mini-batch, so the split changes no update; with several
    `processes` these are the micro-batches of this one.
    """
    mask = collection.mask[list(chosen)]
    scaled = objective.scaled(settings, collection.advantages[list(chosen)], mask)
    # Counts of the whole mini-batch, before any split: weighted sums of the parts then add up to its mean.
    tokens = int(mask.sum())
    # "sequences": sum over a response's tokens, mean over responses.
    weight = 1.0 / tokens if settings.normalise == "tokens" else 1.0 / len(chosen)

    def length(row: int) -> int:
        return len(collection.prompts[chosen[row]]) + len(collection.responses[chosen[row]].ids)

    # Sorted before the sharing: every process gets short and long ones alike, and so the same work.
    rows = processes.share(sorted(range(len(chosen)), key=length))
    return [
        _pack(collection, [(chosen[r], scaled[r]) for r in rows[start : start + size]], weight, device)
        for start in range(0, len(rows), size)
    ]


def _pack(
    collection: Collection, members: Sequence[tuple[int, Tensor]], weight: float, device: torch.device
) -> MicroBatch:
    prompts = [collection.prompts[i] for i, _ in members]
    responses = [collection.responses[i] for i, _ in members]
    ids, positions = right_pad(prompts, [response.ids for response in responses])
    old_logprobs = torch.cat([r.logprobs for r in responses]).to(device)
    packed = Packed(
        tokens=torch.cat([torch.tensor(r.ids) for r in responses]).to(device),
        old_logprobs=old_logprobs,
        behaviour_logprobs=torch.cat([r.behaviour_logprobs for r in responses]).to(device),
        # Rows of the grid are as wide as the limit; beyond a response's end they hold no token's credit.
        advantages=torch.cat([a[: len(r.ids)] for (_, a), r in zip(members, responses, strict=True)]).to(device),
        weights=torch.full_like(old_logprobs, weight),
        teacher_hidden=torch.cat([r.teacher_hidden for r in responses]).to(device),
    )
    # The last token of each row is not fed, hence one less a row.
    real = sum(map(len, prompts)) + len(old_logprobs) - len(members)
    return MicroBatch(ids.to(device), positions.to(device), packed, real)


@torch.no_grad()
def require_agreement(student: PreTrainedModel, teacher: PreTrainedModel, batch: MicroBatch, vocabulary: int) -> float:
    """Check the decode's log-probabilities against a teacher-forced pass; return the largest difference.

    Raises: TrainingError when they differ by more than rounding, naming the model.
    """
    tokens = batch.packed.tokens

    def gap(model: PreTrainedModel, known: Tensor, name: str) -> float:
        limit = AGREEMENT.get(model.dtype, 0.5)
        forced = label_logprobs(model, response_hidden(model, batch.ids, batch.positions), tokens, vocabulary)
        found = (forced - known).abs().max().item()
        # Not `found > limit`, which is false for nan.
        if not found <= limit:
            raise TrainingError(
                f"the {name}'s log-probabilities from decoding and from a plain pass differ by {found:.3g} "
                f"(at most {limit} is rounding): this model's positions or cache are not handled; "
                "please report the architecture, or use a GPT-2, OPT, LLaMA or Qwen2 model"
            )
        return found

    # From the kept states, not the kept numbers: the updates' teacher logits come from these states.
    decoded = label_logprobs(teacher, batch.packed.teacher_hidden, tokens, vocabulary)
    return max(gap(student, batch.packed.old_logprobs, "student"), gap(teacher, decoded, "teacher"))
