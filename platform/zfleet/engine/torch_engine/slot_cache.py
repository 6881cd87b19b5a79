"""The key-value cache of all running sequences: one slot for each, written at the sequence's own position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache


class SlotCache(Cache):
    """A cache of shape [slots, heads, length, dim] for each layer, which grows as needed.

    Slots 0 .. running-1 are in use, without gaps, so that a decoding step works on a view. Call ``prefill`` or
    ``decode`` before each forward pass: they set where ``update`` writes.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._slots = 0
        self._length = 0
        self._first = 0
        self._positions: Tensor | None = None
        self._seen = 0

    def prefill(self, first: int, count: int, length: int) -> None:
        """Prepare a pass that fills ``count`` slots from ``first`` on with prompts padded to ``length``."""
        self._reserve(first + count, length)
        self._first, self._positions, self._seen = first, None, length

    def decode(self, positions: Tensor) -> None:
        """Prepare a pass that adds one token to each of the first slots, at ``positions`` [B]."""
        self._seen = int(positions.max()) + 1
        self._reserve(len(positions), self._seen)
        self._positions = positions

    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        for tensor in (*self._keys, *self._values):
            tensor[target] = tensor[source]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values [B, heads, T, dim]; return all that attention needs."""
        if layer_idx == len(self._keys):
            self._keys.append(self._new(key_states))
            self._values.append(self._new(value_states))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        batch, _, length, _ = key_states.shape
        if self._positions is None:
            keys[self._first : self._first + batch, :, :length] = key_states
            values[self._first : self._first + batch, :, :length] = value_states
            return key_states, value_states
        rows = torch.arange(batch, device=keys.device)
        keys[rows, :, self._positions] = key_states[:, :, 0]
        values[rows, :, self._positions] = value_states[:, :, 0]
        return keys[:batch, :, : self._seen], values[:batch, :, : self._seen]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens so far of the longest sequence."""
        return self._seen

    def _new(self, like: Tensor) -> Tensor:
        return like.new_zeros(self._slots, like.shape[1], self._length, like.shape[3])

    def _reserve(self, slots: int, length: int) -> None:
        if slots <= self._slots and length <= self._length:
            return
        slots = self._slots if slots <= self._slots else max(slots, 2 * self._slots)
        length = self._length if length <= self._length else max(length, 2 * self._length)
        # All or nothing: if memory runs out, the cache stays as it was.
        keys = [_grown(tensor, slots, length) for tensor in self._keys]
        values = [_grown(tensor, slots, length) for tensor in self._values]
        self._keys, self._values, self._slots, self._length = keys, values, slots, length


def _grown(tensor: Tensor, slots: int, length: int) -> Tensor:
    grown = tensor.new_zeros(slots, tensor.shape[1], length, tensor.shape[3])
    grown[: tensor.shape[0], :, : tensor.shape[2]] = tensor
    return grown
