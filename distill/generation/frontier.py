"""The rows of a batch that are still being decoded: the next input, the mask and the positions of each.

Shapes: B batch, P prompt, n columns so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Frontier:
    """Next input `ids` [B, P] (later [B, 1]), `mask` [B, n] of everything fed, `positions` of the input."""

    def __init__(self, prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> None:
        """Begin with the prompts, padded on the left."""
        self.ids, self.mask = left_pad(prompts, pad_id, device)
        # The first real token has position 0, as it would without padding on its left; padding itself is masked.
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)

    def keep_rows(self, indices: Tensor) -> None:
        """Go on with the rows `indices` alone, in that order."""
        self.mask, self.positions = self.mask[indices], self.positions[indices]

    def append(self, tokens: Tensor) -> None:
        """Make `tokens` [B] the next input."""
        self.ids = tokens[:, None]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=-1)
        # Each row goes on from its own last position, whatever the width of the batch.
        self.positions = self.positions[:, -1:] + 1


def places(alive: Tensor) -> Tensor:
    """The rows that go on, by `alive` [B]: the last of them take the places of rows that ended before."""
    # So that caches copy only the rows that move.
    count = int(alive.sum())
    index = torch.arange(count, device=alive.device)
    index[~alive[:count]] = alive[count:].nonzero().squeeze(-1) + count
    return index


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), each [B, P]: the last token of every prompt in the last column; the mask comes from lengths."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
