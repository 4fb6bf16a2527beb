"""A model without a usable cache during a decode: every token is predicted by a pass over the whole text before it.

Its padding is on the right, as in training, so it is exact for any causal model, and needs a pass of n tokens where a
cache needs one of 1.

Shapes: B batch, n tokens, H hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.models.parts import backbone

# Tokens of a pass: more rows than this are read some at a time.
_READ_TOKENS = 4096


class RereadingModel:
    """A model that reads a batch from the start for each token."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Start on a batch, whose prompts `read` brings."""
        self.model = model
        self.text = torch.empty(0, 0, dtype=torch.long)
        self.lengths = torch.empty(0, dtype=torch.long)

    def read(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Feed the prompts [B, n], padded on the left; return the hidden states of their last positions, [B, H]."""
        self.lengths = mask.sum(-1)
        width = ids.shape[1]
        place = torch.arange(width, device=ids.device) + (width - self.lengths)[:, None]
        # Beyond a prompt's end any id will do: no position that is asked for sees it.
        self.text = ids.gather(1, place.clamp(max=width - 1))
        return self._last_states()

    def advance(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Feed the next token of each row, [B, 1]; return its hidden state, [B, H]."""
        self.text = torch.cat([self.text, ids], dim=-1).scatter(1, self.lengths[:, None], ids)
        self.lengths = self.lengths + 1
        return self._last_states()

    def keep_rows(self, indices: Tensor) -> None:
        """Go on with the rows `indices` alone, in that order."""
        self.text, self.lengths = self.text[indices], self.lengths[indices]

    def _last_states(self) -> Tensor:
        self.text = self.text[:, : int(self.lengths.max())]
        rows = max(1, _READ_TOKENS // self.text.shape[1])
        found = []
        for text, lengths in zip(self.text.split(rows), self.lengths.split(rows), strict=True):
            states: Tensor = backbone(self.model)(input_ids=text, use_cache=False).last_hidden_state
            found.append(states[torch.arange(len(text), device=text.device), lengths - 1])
        return torch.cat(found)
