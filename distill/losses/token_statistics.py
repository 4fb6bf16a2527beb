"""log q(y_t), KL(q || p) and the entropy of q at each position, with the gradient written out by hand.

q: student, p: teacher. Shapes: N positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from distill.models.parts import precise


class _TokenStatistics(torch.autograd.Function):
    """See `token_statistics`.

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
        return logq.gather(-1, tokens[:, None]).squeeze(-1), kl, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        of_logprobs, of_kl, _ = grads
        q, gap, kl, tokens = ctx.saved_tensors
        # Both gradients share the factor q, so that one product over the vocabulary serves them.
        gradient = (gap * of_kl[:, None]).sub_((of_kl * kl + of_logprobs)[:, None]).mul_(q)
        gradient.scatter_add_(-1, tokens[:, None], of_logprobs[:, None])
        return gradient.to(ctx.dtype), None, None


def token_statistics(student_logits: Tensor, teacher_logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log q(y_t), KL(q || p), entropy of q), [N] each in nats, from logits [N, V] and the tokens y [N].

    The first two have a gradient with respect to the student's logits, the teacher's logits have none.
    """
    found = _TokenStatistics.apply(student_logits, teacher_logits, tokens)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, Tensor, Tensor]", found)
