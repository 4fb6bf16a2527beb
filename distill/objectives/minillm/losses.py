"""The two terms of MiniLLM's loss over packed response tokens (Eqs. 5 and 7), without ever holding [B, T, V].

Tokens of all responses in a micro-batch are packed into N; the output heads run on chunks of them, and the
gradient with respect to hidden states and head is formed chunk by chunk on the way forward.

    ratio   rho_t = q_theta(y_t) / p~(y_t)          q: student, p: teacher, p~: what the token was drawn from
    L_long  max(-A rho, -A clip(rho, 1-eps, 1+eps))   (paper's printing: -A min(rho, clip(rho)))
    L_single  KL(q_theta || p) over the vocabulary at each position, times w_t where the settings say so

Shapes: N tokens, H and G hidden sizes of student and teacher, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from distill.models.parts import precise

if TYPE_CHECKING:
    from distill.objectives.minillm.settings import MiniLLMSettings

# A chunk of logits for 50,000 tokens in float32 is then about 100 MB, in backward a few times that.
CHUNK_TOKENS = 512
METRICS = ("policy", "single_step", "reverse_kl", "clipped", "entropy")


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


def ratio(settings: MiniLLMSettings, logprobs: Tensor, packed: Packed) -> Tensor:
    """rho_t = q/p~, or q/q_old without importance weights. [N]"""
    drawn_from = packed.behaviour_logprobs if settings.importance_weight else packed.old_logprobs
    return (logprobs - drawn_from).exp()


def policy_loss(rho: Tensor, advantages: Tensor, clip_range: float, form: str) -> Tensor:
    """The clipped long-term objective, negated for descent, [N]."""
    clipped = rho.clamp(1 - clip_range, 1 + clip_range)
    if form == "paper":
        return -advantages * torch.minimum(rho, clipped)
    return torch.maximum(-advantages * rho, -advantages * clipped)


class _TokenStatistics(torch.autograd.Function):
    """log q(y_t), KL(q || p) and the entropy of q at each position, [N] each, from logits [N, V].

    For the student's logits z, d log q(y)/dz = onehot(y) - q and dKL/dz = q (log q - log p - KL): written out, the
    gradient takes a third of the passes over the vocabulary that autograd's would. The entropy has none.
    """

    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        logq = precise(student_logits).log_softmax(-1)
        logp = precise(teacher_logits).log_softmax(-1)
        # In place wherever it can be: fresh memory for a vocabulary costs as much as the arithmetic on it.
        gap = torch.sub(logq, logp, out=logp)
        q = logq.exp()
        kl, entropy = torch.linalg.vecdot(q, gap), -torch.linalg.vecdot(q, logq)
        ctx.save_for_backward(q, gap, kl, tokens)
        ctx.dtype = student_logits.dtype
        ctx.mark_non_differentiable(entropy)
        return _pick(logq, tokens), kl, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        of_logprobs, of_kl, _ = grads
        q, gap, kl, tokens = ctx.saved_tensors
        gradient = (gap * of_kl[:, None]).sub_((of_kl * kl + of_logprobs)[:, None]).mul_(q)
        gradient.scatter_add_(-1, tokens[:, None], of_logprobs[:, None])
        return gradient.to(ctx.dtype), None, None


def _pick(values: Tensor, tokens: Tensor) -> Tensor:
    return values.gather(-1, tokens[:, None]).squeeze(-1)


def token_losses(
    settings: MiniLLMSettings, student_logits: Tensor, teacher_logits: Tensor, packed: Packed
) -> tuple[Tensor, Tensor]:
    """(scalar loss, metrics [len(METRICS)]), both weighted sums over the tokens given; logits are [N, V]."""
    found = _TokenStatistics.apply(student_logits, teacher_logits, packed.tokens)  # type: ignore[no-untyped-call]
    logprobs, kl, entropy = cast("tuple[Tensor, Tensor, Tensor]", found)
    rho = ratio(settings, logprobs, packed)
    policy = torch.zeros_like(kl)
    if settings.policy_gradient:
        policy = policy_loss(rho, packed.advantages, settings.clip_range, settings.clip_form)
    single = torch.zeros_like(kl)
    if settings.single_step:
        single = kl * rho.detach() if settings.single_step_weighted else kl
    outside = ((rho - 1).abs() > settings.clip_range).to(kl)
    metrics = torch.stack([policy, single, kl, outside, entropy]).detach() @ packed.weights
    return ((policy + single) * packed.weights).sum(), metrics


ChunkLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


class _ChunkedHeadLoss(torch.autograd.Function):
    """Sum of `loss(head(hidden[chunk]), chunk)` with the gradients formed during the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, loss: ChunkLoss, size: int
    ) -> tuple[Tensor, Tensor]:
        grad_hidden = torch.zeros_like(hidden)
        # A frozen head, as with LoRA, gets none.
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = None if bias is None or not ctx.needs_input_grad[2] else torch.zeros_like(bias)
        total = precise(hidden.new_zeros(()))
        metrics = total.new_zeros(len(METRICS))
        for start in range(0, hidden.shape[0], size):
            part = slice(start, start + size)
            with torch.enable_grad():
                logits = nn.functional.linear(hidden[part].detach(), weight.detach(), bias).detach()
                logits.requires_grad_()
                value, found = loss(logits, part)
            (grad_logits,) = torch.autograd.grad(value, logits)
            grad_hidden[part] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, hidden[part])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            total += value.detach()
            metrics += found
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(metrics)
        return total, metrics

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # In place, the head being large; a second backward finds the saved tensors changed and refuses.
        return *(None if g is None else g.mul_(grads[0]) for g in ctx.saved_tensors), None, None


def packed_loss(
    settings: MiniLLMSettings,
    student_hidden: Tensor,
    student_head: nn.Module,
    teacher_head: nn.Module,
    packed: Packed,
    vocabulary: int,
    chunk: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """(loss, metrics) of packed tokens from `student_hidden` [N, H], heads applied chunk by chunk."""
    weight, bias = cast(Tensor, student_head.weight), cast("Tensor | None", student_head.bias)

    def loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        here = packed.slice(part)
        with torch.no_grad():
            # A resumed collection may come from a teacher of another precision.
            known = here.teacher_hidden.to(cast(Tensor, teacher_head.weight).dtype)
            teacher_logits = teacher_head(known)[:, :vocabulary]
        return token_losses(settings, logits[:, :vocabulary], teacher_logits, here)

    found = _ChunkedHeadLoss.apply(student_hidden, weight, bias, loss, chunk)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, Tensor]", found)
