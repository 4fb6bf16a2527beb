"""Backbone and output head of a causal language model, apart.

The head runs only where logits are needed, so a stock transformers model is taken as `head(backbone(ids))`;
`require_plain_head` refuses a model that does more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.project.errors import ModelError
from distill.project.foreign import in_words

# Logits at which every soft cap in use (Gemma 2: 30) is reached.
_LOUD = 300.0


def backbone(model: PreTrainedModel) -> nn.Module:
    """The part of a causal language model below its output head."""
    part: nn.Module = model.base_model
    if part is model:
        # A text model whose class names its part in a larger one: the body is the one model inside it.
        inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
        return inner[0] if len(inner) == 1 else part
    return part


def head(model: PreTrainedModel) -> nn.Module:
    """The output head: hidden states [..., H] to logits [..., V]."""
    layer = model.get_output_embeddings()
    if layer is None:
        raise ModelError(f"{type(model).__name__} has no output head; use a causal language model")
    part: nn.Module = layer
    return part


# Logits that stand in memory at once where a loss needs no gradient: 128 MiB in float32.
_LOGITS_AT_ONCE = 2**25


def positions_at_once(model: PreTrainedModel) -> int:
    """How many positions' distributions over the vocabulary may stand in memory at once: fewer of a large one."""
    return max(1, _LOGITS_AT_ONCE // rows_of(head(model)))


def precise(logits: Tensor) -> Tensor:
    """Scores in float32 or better, for whatever is summed over a vocabulary (trap 12)."""
    # Promoted, not cast: float64 stays, for tests that hold float32 against it.
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@torch.no_grad()
def label_logprobs(
    model: PreTrainedModel, hidden: Tensor, labels: Tensor, vocabulary: int | None = None, at_once: int | None = None
) -> Tensor:
    """Log-probability of each of `labels` [N] from the hidden states [N, H] that predict them, [N], without a gradient.

    Over the first `vocabulary` ids, or all. The head runs on `at_once` positions at a time, or on fewer where these
    would be too large: logits are the largest tensors of a pass.
    """
    most = positions_at_once(model)
    size = most if at_once is None else min(at_once, most)
    pieces = [
        precise(head(model)(states)[:, :vocabulary]).log_softmax(-1).gather(-1, part[:, None])
        for states, part in zip(hidden.split(size), labels.split(size), strict=True)
    ]
    # Joined before anything is summed: a batch that fits one piece has the sum of one piece, to the last bit.
    return torch.cat(pieces).squeeze(-1)


@torch.no_grad()
def require_plain_head(model: PreTrainedModel) -> None:
    """Refuse models with other logits than `head(backbone(ids))`: soft-capped or scaled ones, or not finite.

    Raises: ModelError with the largest difference seen, or the reason why it cannot be told.
    """
    training = model.training
    model.eval()
    # Any tokens will do: a scale changes every logit. Taken modulo the rows, for the smallest of test models.
    ids = torch.arange(1, 9, device=model.device)[None] % rows_of(head(model))
    what = f"{type(model).__name__} cannot be run as a body and an output head"
    fix = "use a causal language model, e.g. of GPT-2's, LLaMA's or Qwen's kind"
    try:
        with in_words(what, fix):
            whole, parts = _both_ways(model, ids)
            largest = parts.abs().max().item()
            # A cap shows in large logits alone, and training may make them large.
            loud = _both_ways(model, ids, _LOUD / largest) if 0 < largest < _LOUD else (whole, parts)
            if torch.equal(loud[0], whole):  # the model takes the head's weight without calling the head
                loud = whole, parts
    finally:
        model.train(training)
    for above, below in ((whole, parts), loud):
        # Not a gap over some limit, which is false for nan.
        if not bool(above.isfinite().all() and below.isfinite().all()):
            raise ModelError(
                f"the logits of this {type(model).__name__} are not finite; look for nan in its weights, or fetch them "
                "again"
            )
        gap = (above - below).abs().max().item()
        # The two ways do the same operations, so rounding alone is far below a thousandth of the largest logit.
        if gap > 1e-3 * (1 + above.abs().max().item()):
            raise ModelError(
                f"{type(model).__name__} changes its logits after the output head (by up to {gap:.3g}), which this "
                "decode does not do; use a GPT-2, OPT, LLaMA, Qwen2 or similar model"
            )


def _both_ways(model: PreTrainedModel, ids: Tensor, louder: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits of the whole model, and of its head on its body's states; the head's output is `louder` in both."""

    def scaled(_: nn.Module, __: tuple[Any, ...], logits: Tensor) -> Tensor:
        return logits if louder == 1.0 else logits * louder

    hook = head(model).register_forward_hook(scaled)
    try:
        whole: Tensor = model(input_ids=ids).logits.float()
        parts: Tensor = head(model)(backbone(model)(input_ids=ids).last_hidden_state).float()
    finally:
        hook.remove()
    return whole, parts


def shared_vocabulary(student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """Number of token ids that both models have; the longer vocabulary is only padded (trap 5)."""
    # Rows beyond the tokenizer's ids round a matrix up to a size that a GPU likes, and stand for no token.
    return min(rows_of(head(student)), rows_of(head(teacher)))


def require_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a model that lacks rows for some of the tokenizer's ids; more rows than ids are padding.

    Raises: ModelError naming both numbers.
    """
    # The highest id, not how many there are: ids may have gaps.
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows_of(head(model)):
        raise ModelError(
            f"{name} has {rows_of(head(model)):,} rows and the tokenizer ids up to {highest:,}; use the tokenizer that "
            "belongs to the model (`recipe.tokenizer`), without tokens added later"
        )


def rows_of(layer: nn.Module) -> int:
    """Number of token ids that an output head knows."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]
