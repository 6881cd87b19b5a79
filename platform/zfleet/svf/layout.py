"""The order and sizes of a z: which matrices it scales, and where each one's values lie when flattened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class ZLayout:
    """Names and ranks of the target matrices, in the order of the base's modules.

    Attributes:
        names: Module paths, such as ``model.layers.0.mlp.up_proj``.
        ranks: r = min(m, n) of each matrix.
    """

    names: tuple[str, ...]
    ranks: tuple[int, ...]

    @cached_property
    def size(self) -> int:
        """R, the numbers in one z: the sum of the ranks."""
        return sum(self.ranks)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each matrix's values lie in a flat z [R]."""
        ends = [sum(self.ranks[: i + 1]) for i in range(len(self.ranks))]
        return {name: slice(end - rank, end) for name, rank, end in zip(self.names, self.ranks, ends, strict=True)}

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The transformer layer of each matrix, counted from 0 (0 for a matrix outside all layers)."""
        return tuple(layer_of(name) for name in self.names)

    def flatten(self, values: dict[str, Tensor]) -> Tensor:
        """{name: [r]} to [R]."""
        return torch.cat([values[name].reshape(-1) for name in self.names])

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """[..., R] to {name: [..., r]}; views, not copies."""
        return {name: flat[..., where] for name, where in self.slices.items()}


_LAYER = re.compile(r"\.(\d+)\.")


def layer_of(name: str) -> int:
    """The layer index in a module path: ``model.layers.3.mlp.up_proj`` is 3."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else 0
