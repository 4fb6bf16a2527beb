"""Padded batches of prompt and response."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.text.examples import Example

IGNORED = -100


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Right-padded `input_ids` and `attention_mask` [B, L], `labels` (-100 off the response), `rows` [B].

    Masks come from lengths, so a pad id equal to eos hides nothing (trap 1).
    """
    width = max(len(e.prompt_ids) + len(e.response_ids) for e in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        whole = torch.tensor(example.prompt_ids + example.response_ids)
        ids[row, : len(whole)] = whole
        mask[row, : len(whole)] = 1
        labels[row, len(example.prompt_ids) : len(whole)] = whole[len(example.prompt_ids) :]
    rows = torch.tensor([example.index for example in examples])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "rows": rows}
