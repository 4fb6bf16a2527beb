"""The two terms of MiniLLM's loss at each response token (Eqs. 5 and 7), and the credit they need.

    ratio   rho_t = q_theta(y_t) / p~(y_t)          q: student, p: teacher, p~: what the token was drawn from
    L_long  max(-A rho, -A clip(rho, 1-eps, 1+eps))   (paper's printing: -A min(rho, clip(rho)))
    L_single  KL(q_theta || p) over the vocabulary at each position, times w_t where the settings say so

Shapes: N tokens, R responses of at most T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill.losses.token_statistics import token_statistics
from distill.objectives.minillm import returns

if TYPE_CHECKING:
    from distill.objectives.minillm.settings import ObjectiveSettings
    from distill.on_policy.losses import Packed


class MiniLLM:
    """MiniLLM as the engine of own samples calls it (distill.on_policy.objective)."""

    metrics = ("policy", "single_step", "reverse_kl", "clipped", "entropy")

    def advantages(
        self, settings: ObjectiveSettings, teacher_logprobs: Tensor, student_logprobs: Tensor, kl: Tensor, mask: Tensor
    ) -> Tensor:
        """Credit of each token for what comes after it, [R, T]."""
        return returns.advantages(settings, teacher_logprobs, student_logprobs, kl, mask)

    def scaled(self, settings: ObjectiveSettings, advantages: Tensor, mask: Tensor) -> Tensor:
        """Those of one mini-batch, whitened, [B, T]."""
        return returns.whitened(advantages, mask, settings.whiten)

    def losses(
        self,
        settings: ObjectiveSettings,
        student_logits: Tensor,
        teacher_logits: Tensor,
        packed: Packed,
        progress: float,
    ) -> tuple[Tensor, Tensor]:
        """(loss [N], metrics [M, N]) of each token; logits are [N, V]."""
        logprobs, kl, entropy = token_statistics(student_logits, teacher_logits, packed.tokens)
        rho = ratio(settings, logprobs, packed)
        policy = torch.zeros_like(kl)
        if settings.policy_gradient:
            policy = policy_loss(rho, packed.advantages, settings.clip_range, settings.clip_form)
        single = torch.zeros_like(kl)
        if settings.single_step:
            # The weight is a change of measure, not a part of the loss: it carries no gradient.
            single = kl * rho.detach() if settings.single_step_weighted else kl
        outside = ((rho - 1).abs() > settings.clip_range).to(kl)
        return policy + single, torch.stack([policy, single, kl, outside, entropy]).detach()

    def remedies(self, settings: ObjectiveSettings) -> list[str]:
        """Parts that are off and whose absence was seen to let students collapse."""
        off = {
            "`whiten: tokens`": settings.policy_gradient and settings.whiten == "none",
            "`length_norm: true`": settings.policy_gradient and not settings.length_norm,
            "`single_step: true`": not settings.single_step,
        }
        return [f"set {name}" for name, missing in off.items() if missing]


def ratio(settings: ObjectiveSettings, logprobs: Tensor, packed: Packed) -> Tensor:
    """rho_t = q/p~, or q/q_old without importance weights. [N]"""
    drawn_from = packed.behaviour_logprobs if settings.importance_weight else packed.old_logprobs
    return (logprobs - drawn_from).exp()


def policy_loss(rho: Tensor, advantages: Tensor, clip_range: float, form: str) -> Tensor:
    """The clipped long-term objective, negated for descent, [N]."""
    clipped = rho.clamp(1 - clip_range, 1 + clip_range)
    if form == "paper":
        # As printed, a bad token that is already unlikely is pushed down without a bound.
        return -advantages * torch.minimum(rho, clipped)
    # The larger loss of the two: the clip can only take away a step that has gone far enough, for both signs.
    return torch.maximum(-advantages * rho, -advantages * clipped)
