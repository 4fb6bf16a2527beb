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
    ids = torch.arange(1, 9, device=model.device)[None] % vocabulary_rows(model)
    whole: Tensor = model(input_ids=ids).logits.float()
    parts: Tensor = head(model)(backbone(model)(input_ids=ids).last_hidden_state).float()
    model.train(training)
    gap = (whole - parts).abs().max().item()
    # The two ways do the same operations, so rounding alone is far below a thousandth of the largest logit.
    if not gap <= 1e-3 * (1 + whole.abs().max().item()):  # NaN is no small gap
        raise ModelError(
            f"{type(model).__name__} changes its logits after the output head (by up to {gap:.3g}), which this "
            "decode does not do; use a GPT-2, OPT, LLaMA, Qwen2 or similar model"
        )


def shared_vocabulary(student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """Number of token ids that both models have; the longer vocabulary is only padded (trap 5)."""
    # Rows beyond the tokenizer's ids round a matrix up to a size that a GPU likes, and stand for no token.
    return min(vocabulary_rows(student), vocabulary_rows(teacher))


def require_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a model that lacks rows for some of the tokenizer's ids; more rows than ids are padding.

    Raises: ModelError naming both numbers.
    """
    # The highest id, not how many there are: ids may have gaps.
    highest = max(tokenizer.get_vocab().values())
    if highest >= vocabulary_rows(model):
        raise ModelError(
            f"{name} has {vocabulary_rows(model):,} rows and the tokenizer ids up to {highest:,}; use the tokenizer "
            "that belongs to the model (`recipe.tokenizer`), without tokens added later"
        )


def vocabulary_rows(model: PreTrainedModel) -> int:
    """Rows V of the output head; those beyond the tokenizer's ids stand for no token."""
    weight = head(model).weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]
