"""The key-value cache of running sequences: one slot for each, written at the sequence's own position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

_Write = Callable[[Tensor, Tensor], Tensor]
"""Puts new keys or values [B, heads, T, dim] into a layer's slots [slots, heads, length, dim]; returns what to attend
to."""


LENGTH_STEP = 64
"""The length of a cache is a multiple of so many tokens."""


class SlotCache(Cache):
    """A cache of shape [slots, heads, length, dim] for each layer, which grows as needed.

    Slots in use have no gaps, so that a decoding step works on a view. Call ``prefill``, ``extend`` or ``decode``
    before each forward pass: they set where ``update`` writes.
    """

    def __init__(self, most_slots: int) -> None:
        """Start empty.

        Args:
            most_slots: It never has more.
        """
        super().__init__(layers=[])
        self._most_slots = most_slots
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._slots = 0
        self._length = 0
        self._before = self._after = 0
        self._write: _Write = _unprepared

    def prefill(self, first: int, count: int, length: int, prompts: Tensor | None = None) -> None:
        """Prepare a pass over prompts padded to ``length``, which fill ``count`` slots from ``first`` on.

        Args:
            prompts: [count] which prompt of the pass each slot gets; None: one each, in order.
        """
        self._reserve(first + count, length)
        self._before, self._after = 0, length

        def write(slots: Tensor, new: Tensor) -> Tensor:
            # One prompt is spread over its slots as it is written.
            slots[first : first + count, :, :length] = new if prompts is None or len(new) == 1 else new[prompts]
            return new

        self._write = write

    def extend(self, start: int, length: int) -> None:
        """Prepare a pass that adds ``length`` tokens to the first slot, behind ``start`` tokens that it has."""
        self._reserve(1, start + length)
        self._before, self._after = start, start + length

        def write(slots: Tensor, new: Tensor) -> Tensor:
            slots[:1, :, start : start + length] = new
            return slots[:1, :, : start + length]

        self._write = write

    def decode(self, positions: Tensor) -> None:
        """Prepare a pass that adds one token to each of the first slots, at ``positions`` [B]."""
        batch = len(positions)
        self._before = int(positions.max())
        self._after = seen = self._before + 1
        self._reserve(batch, seen)
        rows = torch.arange(batch, device=positions.device)

        def write(slots: Tensor, new: Tensor) -> Tensor:
            slots[rows, :, positions] = new[:, :, 0]
            return slots[:batch, :, :seen]

        self._write = write

    def copy(self, sources: Sequence[int], first: int, length: int) -> None:
        """Copy the first ``length`` tokens of each source slot, to the slots from ``first`` on."""
        self._reserve(first + len(sources), length)
        for tensor in (*self._keys, *self._values):
            tensor[first : first + len(sources), :, :length] = tensor[list(sources), :, :length]

    def take(self, other: SlotCache, first: int, count: int) -> None:
        """Copy the first slot of another cache, to ``count`` slots from ``first`` on."""
        length = other._after
        self._reserve(first + count, length)
        for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
            for layer, tensor in enumerate(theirs):
                if layer == len(mine):
                    mine.append(self._new(tensor))
                mine[layer][first : first + count, :, :length] = tensor[:1, :, :length]

    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        for tensor in (*self._keys, *self._values):
            tensor[target] = tensor[source]

    def release(self) -> None:
        """Forget everything and give the memory back."""
        self._keys, self._values, self._slots, self._length = [], [], 0, 0

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(tensor.nbytes for tensor in (*self._keys, *self._values))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values [B, heads, T, dim]; return all that attention needs."""
        if layer_idx == len(self._keys):
            self._keys.append(self._new(key_states))
            self._values.append(self._new(value_states))
        return self._write(self._keys[layer_idx], key_states), self._write(self._values[layer_idx], value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens the longest sequence has before the pass."""
        return self._before

    def _new(self, like: Tensor) -> Tensor:
        return like.new_zeros(self._slots, like.shape[1], self._length, like.shape[3])

    def _reserve(self, slots: int, length: int) -> None:
        if slots <= self._slots and length <= self._length:
            return
        slots = self._slots if slots <= self._slots else grown_slots(self._slots, slots, self._most_slots)
        length = self._length if length <= self._length else grown_length(self._length, length)
        # One layer after the other, so that only one is there twice. If memory runs out, those that grew have room that
        # is not used yet.
        for tensors in (self._keys, self._values):
            for layer, tensor in enumerate(tensors):
                tensors[layer] = self._grown(tensor, slots, length)
        self._slots, self._length = slots, length

    def _grown(self, tensor: Tensor, slots: int, length: int) -> Tensor:
        grown = tensor.new_zeros(slots, tensor.shape[1], length, tensor.shape[3])
        grown[: self._slots, :, : self._length] = tensor[: self._slots, :, : self._length]
        return grown


def grown_slots(before: int, needed: int, most: int) -> int:
    """Return to how many slots a cache grows that needs more: it doubles at least, up to the most."""
    return min(max(needed, 2 * before), most)


def grown_length(before: int, needed: int) -> int:
    """Return to how many tokens a cache grows that needs more: at least by an eighth, to a multiple of LENGTH_STEP.

    A copy of the cache then costs little beside the steps from one to the next, each of which reads it.
    """
    longer = max(needed, before + before // 8)
    return -(-longer // LENGTH_STEP) * LENGTH_STEP


def _unprepared(slots: Tensor, new: Tensor) -> Tensor:
    raise AssertionError("a pass was not prepared")
