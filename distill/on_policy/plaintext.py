"""L_PT: language modelling on plain text beside the distillation, so that the student keeps its language.

L_PT = (1 - k) * CE(q, d) + k * soft CE(p -> q)        k = `lm_kd_ratio`; the paper has k = 0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.models.parts import backbone, head, precise, shared_vocabulary
from distill.project.randomness import rng

if TYPE_CHECKING:
    from distill.on_policy.settings import OnPolicySettings


def token_stream(documents: Sequence[list[int]], eos_id: int) -> Tensor:
    """All documents' ids end to end, each closed by eos, [tokens]."""
    return torch.tensor([token for document in documents for token in (*document, eos_id)])


def draw_sequences(stream: Tensor, count: int, length: int, seed: int, step: int) -> Tensor:
    """`count` windows of `length` tokens at places keyed by (seed, step), [count, length]."""
    random = rng(seed, "plain text", step)
    # + 1, so that the last window may end with the stream; a shorter stream gives one cut window.
    starts = [random.randrange(max(1, len(stream) - length + 1)) for _ in range(count)]
    return torch.stack([stream[start : start + length] for start in starts])


def plaintext_loss(
    student: PreTrainedModel, teacher: PreTrainedModel, ids: Tensor, settings: OnPolicySettings
) -> Tensor:
    """L_PT of windows `ids` [B, L], a mean over predicted tokens; the teacher runs only when `lm_kd_ratio` > 0."""
    # Nothing to compare the last position with: its target lies beyond the window.
    logits = head(student)(backbone(student)(input_ids=ids, use_cache=False).last_hidden_state[:, :-1])
    vocabulary = shared_vocabulary(student, teacher)
    logq = precise(logits[..., :vocabulary]).log_softmax(-1).flatten(0, 1)
    loss = torch.nn.functional.nll_loss(logq, ids[:, 1:].flatten())
    if settings.lm_kd_ratio:
        with torch.no_grad():
            hidden = backbone(teacher)(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            p = precise(head(teacher)(hidden)[..., :vocabulary]).softmax(-1).flatten(0, 1)
        # p has no gradient: soft cross-entropy and KL(p||q) then differ by a constant, and train alike.
        # Like the hard term, a mean over B (L - 1) tokens, so that k is a true share.
        soft = -(p * logq).sum(-1).mean()
        loss = (1 - settings.lm_kd_ratio) * loss + settings.lm_kd_ratio * soft
    return loss
