"""Passes over whole responses: right-padded batches, and the hidden states that predict the response's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.models.parts import backbone


def right_pad(prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """(ids [B, P+T-1], flat positions [N] that predict the response tokens, in order)."""
    # The last token is only ever predicted, never fed.
    fed = [prompt + response[:-1] for prompt, response in zip(prompts, responses, strict=True)]
    width = max(map(len, fed))
    # Any id serves as padding: no position of it is picked, and none before it sees it.
    ids = torch.zeros(len(fed), width, dtype=torch.long)
    positions = []
    for row, (sequence, prompt, response) in enumerate(zip(fed, prompts, responses, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        # A position predicts the token after it: the prompt's last one predicts the response's first.
        first = row * width + len(prompt) - 1
        positions.append(torch.arange(first, first + len(response)))
    return ids, torch.cat(positions)


def response_hidden(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
    """Hidden states of the positions that predict response tokens, [N, H].

    Padding is on the right, where a causal model's real tokens never look: no mask is needed.
    """
    hidden: Tensor = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)[positions]
