"""A loss on an output head's logits that never holds all of them: the head runs on chunks of the positions.

The gradient with respect to hidden states and head is formed chunk by chunk on the way forward, so that logits
[N, V] of more than one chunk, and their gradient, are never in memory together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill.models.parts import precise

# A chunk of logits for 50,000 tokens in float32 is then about 100 MB, in backward a few times that.
CHUNK_TOKENS = 512

ChunkLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""(loss, metrics [M]) of some positions, sums over them both, from their logits [n, V] and their place among all."""


class _ChunkedHeadLoss(torch.autograd.Function):
    """Sum of `loss(head(hidden[chunk]), chunk)` with the gradients formed during the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, loss: ChunkLoss, metrics: int, size: int
    ) -> tuple[Tensor, Tensor]:
        grad_hidden = torch.zeros_like(hidden)
        # A frozen head, as with LoRA, gets none.
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = None if bias is None or not ctx.needs_input_grad[2] else torch.zeros_like(bias)
        total = precise(hidden.new_zeros(()))
        measured = total.new_zeros(metrics)
        for start in range(0, hidden.shape[0], size):
            part = slice(start, start + size)
            with torch.enable_grad():
                # Leaves of a graph of their own: it is gone with the chunk.
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
            measured += found
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(measured)
        return total, measured

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # In place, the head being large; a second backward finds the saved tensors changed and refuses.
        return *(None if g is None else g.mul_(grads[0]) for g in ctx.saved_tensors), None, None, None


def chunked_head_loss(
    hidden: Tensor, head: nn.Module, loss: ChunkLoss, metrics: int, chunk: int = CHUNK_TOKENS
) -> tuple[Tensor, Tensor]:
    """(loss, metrics [`metrics`]) summed over all positions from `hidden` [N, H], `chunk` of them at a time."""
    weight, bias = cast(Tensor, head.weight), cast("Tensor | None", head.bias)
    found = _ChunkedHeadLoss.apply(hidden, weight, bias, loss, metrics, chunk)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, Tensor]", found)
