"""Backbone and output head of a causal language model, apart.

The head runs only where logits are needed, so a stock transformers model is taken as `head(backbone(ids))`;
`require_plain_head` refuses a model that does more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.project.errors import ModelError


def backbone(model: PreTrainedModel) -> nn.Module:
    """The part of a causal language model below its output head."""
    part: nn.Module = model.base_model
    return part


def head(model: PreTrainedModel) -> nn.Module:
    """The output head: hidden states [..., H] to logits [..., V]."""
    layer = model.get_output_embeddings()
    if layer is None:
        raise ModelError(f"{type(model).__name__} has no output head; use a causal language model")
    part: nn.Module = layer
    return part


# Logits that stand in memory at once where a loss needs no gradient: some 100 MB in float32.
_LOGITS_AT_ONCE = 25_600_000


def positions_at_once(model: PreTrainedModel) -> int:
    """How many positions' distributions over the vocabulary may stand in memory at once: fewer of a large one."""
    return max(1, _LOGITS_AT_ONCE // _rows(head(model)))


def precise(logits: Tensor) -> Tensor:
    """Scores in float32 or better, for whatever is summed over a vocabulary (trap 12)."""
    # Promoted, not cast: float64 stays, for tests that hold float32 against it.
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@torch.no_grad()
def require_plain_head(model: PreTrainedModel) -> None:
    """Refuse models with other logits than `head(backbone(ids))` (soft-capped or scaled ones).

    Raises: ModelError with the largest difference seen.
    """
    training = model.training
    model.eval()
    # Any tokens will do: a cap or a scale changes every logit. Taken modulo the rows, for the smallest of test models.
    ids = torch.arange(1, 9, device=model.device)[None] % _rows(head(model))
    whole: Tensor = model(input_ids=ids).logits.float()
    parts: Tensor = head(model)(backbone(model)(input_ids=ids).last_hidden_state).float()
    model.train(training)
    gap = (whole - parts).abs().max().item()
    # The two ways do the same operations, so rounding alone is far below a thousandth of the largest logit.
    if gap > 1e-3 * (1 + whole.abs().max().item()):
        raise ModelError(
            f"{type(model).__name__} changes its logits after the output head (by up to {gap:.3g}), which this "
            "decode does not do; use a GPT-2, OPT, LLaMA, Qwen2 or similar model"
        )


def shared_vocabulary(student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """Number of token ids that both models have; the longer vocabulary is only padded (trap 5)."""
    # Rows beyond the tokenizer's ids round a matrix up to a size that a GPU likes, and stand for no token.
    return min(_rows(head(student)), _rows(head(teacher)))


def require_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a model that lacks rows for some of the tokenizer's ids; more rows than ids are padding.

    Raises: ModelError naming both numbers.
    """
    # The highest id, not how many there are: ids may have gaps.
    highest = max(tokenizer.get_vocab().values())
    if highest >= _rows(head(model)):
        raise ModelError(
            f"{name} has {_rows(head(model)):,} rows and the tokenizer ids up to {highest:,}; use the tokenizer that "
            "belongs to the model (`recipe.tokenizer`), without tokens added later"
        )


def _rows(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]
