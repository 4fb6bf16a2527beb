"""A model's cache during a decode, on top of transformers' own.

Keys and values save two copies of the stock cache. A token is appended in place: concatenating copies every key and
value at every step. Rows that end give their places to the last rows: selecting copies all rows that stay. Windows and
recurrent states are the stock cache's.

Shapes: B batch, n tokens, H hidden.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from distill.models.parts import backbone

# Tokens a full layer makes room for.
_ROOM = 16
# Tokens of prompts read at once: the activations of a whole batch outgrow a CPU's caches and allocator.
_READ_TOKENS = 1024


class GrowingLayer(DynamicLayer):
    """Keys and values [B, heads, n, width] as views into buffers that have room for more tokens."""

    def __init__(self, rows: int) -> None:
        """A layer for a batch of `rows`, whose prompts may arrive some rows at a time."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.read = rows, 0
        self.buffers: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states of new tokens; return all keys and values of their rows."""
        if self.read < self.rows:
            # Attention over a prompt sees the rows being read alone, so they are returned as they came.
            self._read(key_states, value_states)
            return key_states, value_states
        first = self.get_seq_length()
        length = first + key_states.shape[-2]
        if length > self.buffers[0].shape[-2]:
            self._grow()
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, first:length] = states
        return self._show(length)

    def _read(self, *states: Tensor) -> None:
        """Take in the prompts of the next rows."""
        length = states[0].shape[-2]
        if not self.buffers:
            self.buffers = tuple(_room(new, self.rows) for new in states)
        for buffer, new in zip(self.buffers, states, strict=True):
            buffer[self.read : self.read + len(new), :, :length] = new
        self.read += len(states[0])
        # Not before the last prompt: a layer that looked filled would take the next prompts for tokens that follow.
        if self.read == self.rows:
            self.lazy_initialization(*states)
            self._show(length)

    def _grow(self) -> None:
        larger = tuple(_room(buffer, len(buffer)) for buffer in self.buffers)
        for new, old in zip(larger, self.buffers, strict=True):
            new[:, :, : old.shape[-2]] = old
        self.buffers = larger

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        # Views: attention reads the filled part where it lies, and the room behind it stays out of sight.
        keys, values = (buffer[:, :, :length] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`, in that order; a row that stays in its place is not copied."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero().squeeze(-1)
        for buffer in self.buffers:
            buffer[moved] = buffer[indices[moved]]
        # Cut, not copied: the rows that left keep their memory until the buffers grow.
        self.buffers = tuple(buffer[: len(indices)] for buffer in self.buffers)
        self._show(self.get_seq_length())


def _room(like: Tensor, rows: int) -> Tensor:
    """An empty buffer for `rows` rows of the tokens of `like` [B, heads, n, width] and some more."""
    return like.new_empty(rows, like.shape[1], like.shape[2] + _ROOM, like.shape[3])


class CachedModel:
    """A model that advances over a batch token by token."""

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        """Start on a batch of `rows` prompts.

        Raises: TypeError when the backbone takes no cache.
        """
        self.model = model
        self.cache = DynamicCache(config=model.config)
        # Windowed and recurrent layers hold more than keys and values: they stay as they are.
        self.growing = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        if self.growing:
            self.cache.layers = [GrowingLayer(rows) for _ in self.cache.layers]
        # Recurrent layers alone know no earlier columns, and take the mask of the tokens that are fed.
        self.recurrent = not any(isinstance(layer, CacheLayerMixin) for layer in self.cache.layers)
        taken = inspect.signature(backbone(model).forward).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
        cache = "cache_params" if "cache_params" in taken else "past_key_values"
        if cache not in taken and not anything:
            raise TypeError("it takes no cache")
        self.named_cache = {cache: self.cache}
        self.takes_positions = anything or "position_ids" in taken

    def read(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Feed the prompts [B, n]; return the hidden states of their last positions, [B, H]."""
        # Rows do not see each other, so some at a time have the states that all at once would have.
        rows = max(1, _READ_TOKENS // ids.shape[1]) if self.growing else len(ids)
        parts = zip(ids.split(rows), mask.split(rows), positions.split(rows), strict=True)
        return torch.cat([self.advance(*part) for part in parts])

    def advance(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Feed `ids` [B, n] after the tokens fed before; return the last hidden states, [B, H]."""
        named: dict[str, Any] = {"position_ids": positions} if self.takes_positions else {}
        seen = mask[:, -ids.shape[1] :] if self.recurrent else mask
        out = backbone(self.model)(input_ids=ids, attention_mask=seen, use_cache=True, **named, **self.named_cache)
        # Prompts are padded on the left: the last column holds the last token of every row.
        hidden: Tensor = out.last_hidden_state[:, -1]
        return hidden

    def keep_rows(self, indices: Tensor) -> None:
        """Go on with the rows `indices` alone, in that order."""
        if self.growing:
            self.cache.batch_select_indices(indices)
        else:
            # Of the two selections of the library the one that recurrent states know.
            self.cache.reorder_cache(cast(torch.LongTensor, indices))
