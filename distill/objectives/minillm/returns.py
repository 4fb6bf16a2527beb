"""Rewards to advantages: r_t, its discounted and length-normalised return, and whitening.

Everything here is data for the loss and carries no gradient (trap 4). Shapes: [B, T] over right-padded
responses with a mask of valid tokens, which come from lengths.

    paper      R_{t+1} = sum over t' > t of r_t', divided by the number of its terms (Eqs. 3 and 6)
    reference  R_t = sum over t' >= t of 0.95^(t'-t) r_t', divided likewise, then whitened over the padded grid
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from distill.objectives.minillm.settings import ObjectiveSettings


def sampled_rewards(teacher_logprobs: Tensor, student_logprobs: Tensor, scale: float, clip: float | None) -> Tensor:
    """r_t = (log p(y_t) - log q(y_t)) / scale, clipped to ±clip; teacher first. [B, T]"""
    rewards = (teacher_logprobs - student_logprobs) / scale
    return rewards if clip is None else rewards.clamp(-clip, clip)


def expected_rewards(kl: Tensor, scale: float, clip: float | None) -> Tensor:
    """E_{y~q}[r_t] = -KL(q||p) at each position (Amini, Vieira, Cotterell 2025), scaled and clipped alike."""
    return sampled_rewards(-kl, torch.zeros_like(kl), scale, clip)


def discounted_returns(rewards: Tensor, mask: Tensor, discount: float, start: str, length_norm: bool) -> Tensor:
    """Return of each position, [B, T]; zero where the mask is.

    The discount is by relative distance, gamma^(t'-t) (trap 6). `start` is "current" (t' >= t) or "next"
    (t' > t, then discounted from its own first term). The norm divides by the number of rewards summed, at
    least 1: the printed T-t-1 would be 0 and -1 at the end.
    """
    valid = mask.to(rewards.dtype)
    # The recursion runs from the end: a reward on padding would reach every return before it.
    rewards = rewards * valid
    returns = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    # R_t = r_t + gamma R_{t+1} gives gamma^(t'-t) by products alone. Cumulative sums would be divided by gamma^t,
    # which nears 0 in long responses and is 0 for a discount of 0.
    for t in range(rewards.shape[1] - 1, -1, -1):
        running = rewards[:, t] + discount * running
        returns[:, t] = running
    # Valid tokens from t on, t itself included: as many as the rewards that R_t sums.
    terms = valid.flip(1).cumsum(1).flip(1)
    if start == "next":
        # R_{t+1} is the neighbour's return, discounted from its own first term; after the last token nothing is due.
        returns = torch.cat([returns[:, 1:], torch.zeros_like(returns[:, :1])], dim=1)
        terms = terms - 1
    if length_norm:
        returns = returns / terms.clamp(min=1)
    return returns * valid


def whitened(values: Tensor, mask: Tensor, over: str) -> Tensor:
    """Standardise [B, T] to mean 0 and variance 1, over "tokens" (valid ones), over the whole padded "grid"
    with its zeros as the reference does, or not at all ("none").
    """
    if over == "none":
        return values
    population = values[mask] if over == "tokens" else values.flatten()
    mean = population.mean()
    # Population variance: a single token gives 0, where n - 1 would give nan.
    variance = population.var(correction=0)
    # The mask again: less the mean, padding would no longer be 0.
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def advantages(
    settings: ObjectiveSettings, teacher_logprobs: Tensor, student_logprobs: Tensor, kl: Tensor, mask: Tensor
) -> Tensor:
    """What multiplies the ratio in the long-term term, before whitening, [B, T]."""
    scale, clip = settings.reward_scale, settings.reward_clip
    if settings.rewards == "expected":
        rewards = expected_rewards(kl, scale, clip)
    else:
        rewards = sampled_rewards(teacher_logprobs, student_logprobs, scale, clip)
    result = discounted_returns(rewards, mask, settings.discount, settings.return_from, settings.length_norm)
    if settings.baseline == "closed_form":
        # Only the own reward's mean depends on nothing drawn after y_t; subtracting later ones would bias.
        # Discount 0 leaves r_t, divided by the same number of terms as the return that it is taken from.
        own = discounted_returns(expected_rewards(kl, scale, clip), mask, 0.0, "current", settings.length_norm)
        result = result - own
    return result
