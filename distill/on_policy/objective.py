"""An objective as the engine of own samples calls it: a loss of each position, and credit for later ones if it has any.

An objective with `token_losses` alone is adapted here. One that wants more (MiniLLM) offers `on_own_samples()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from distill.models.parts import precise

if TYPE_CHECKING:
    from distill.on_policy.losses import Packed
    from distill.training.objective import Objective, RowObjective


class OwnSampleObjective(Protocol):
    """Losses on tokens whose distributions, under both models, the collection already knows.

    Shapes: N tokens, R responses of at most T tokens, B of them in a mini-batch, V vocabulary, M metrics.
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what `losses` measures beside the loss; `entropy`, of the student, among them."""

    def advantages(
        self, settings: Any, teacher_logprobs: Tensor, student_logprobs: Tensor, kl: Tensor, mask: Tensor
    ) -> Tensor:
        """Credit of each token for what comes after it, from a finished collection, [R, T]; data, without gradient."""

    def scaled(self, settings: Any, advantages: Tensor, mask: Tensor) -> Tensor:
        """Those of one mini-batch as its losses read them, [B, T]."""

    def losses(
        self, settings: Any, student_logits: Tensor, teacher_logits: Tensor, packed: Packed, progress: float
    ) -> tuple[Tensor, Tensor]:
        """(loss [N], metrics [M, N]) of each token, from logits [N, V]; `progress` is the share of training done."""

    def remedies(self, settings: Any) -> list[str]:
        """What to change in the formula after a collapse, most helpful first."""


class TokenLosses:
    """An objective of one position's two distributions, without credit for others."""

    metrics = ("entropy",)

    def __init__(self, objective: RowObjective) -> None:
        """`objective` is a module of distill/objectives/ with `token_losses`."""
        self.objective = objective

    def advantages(
        self, settings: Any, teacher_logprobs: Tensor, student_logprobs: Tensor, kl: Tensor, mask: Tensor
    ) -> Tensor:
        """None is due."""
        # Zeros on the whole grid, so that packing need not know which objectives give credit.
        return torch.zeros_like(kl)

    def scaled(self, settings: Any, advantages: Tensor, mask: Tensor) -> Tensor:
        """Nothing to scale."""
        return advantages

    def losses(
        self, settings: Any, student_logits: Tensor, teacher_logits: Tensor, packed: Packed, progress: float
    ) -> tuple[Tensor, Tensor]:
        """The objective's own loss, and the entropy of q."""
        # Before any sum over V: in half precision small probabilities would be lost in it.
        mine = precise(student_logits)
        loss = self.objective.token_losses(settings, mine, precise(teacher_logits), packed.tokens, progress)
        # A number to watch, no part of the loss: a graph for it would hold [N, V] once more.
        with torch.no_grad():
            logq = mine.log_softmax(-1)
            # From log q: an underflown probability gives 0 times a finite number, not 0 times -inf.
            entropy = -torch.linalg.vecdot(logq.exp(), logq)
        return loss, entropy[None]

    def remedies(self, settings: Any) -> list[str]:
        """Nothing known of this formula alone."""
        return []


def own_sample_objective(objective: Objective) -> OwnSampleObjective:
    """The objective's own form for own samples, or its token losses as one."""
    own = getattr(objective, "on_own_samples", None)
    found: OwnSampleObjective = TokenLosses(cast("RowObjective", objective)) if own is None else own()
    return found
