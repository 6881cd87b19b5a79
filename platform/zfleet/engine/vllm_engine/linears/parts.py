"""The matrices of an engine's linear, as every form takes them.

An engine may fuse matrices that share an input into one linear (q, k and v; gate and up). Each part keeps its own
SVD and writes its own columns of the fused output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Linear = Callable[[Tensor, Tensor | None], Tensor]
"""Maps x [T, n] and a bias [m] or None to y [T, m]: a linear of the engine, with its packed weight inside."""

Pack = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""Packs a weight [m, n], for as long as the engine lives, into a fast function from x [T, n] to x W^T [T, m]."""


@dataclass(frozen=True, eq=False)
class PartFactors:
    """One matrix of a fused linear, as this rank holds it.

    Attributes:
        name: Its module path in the base.
        u: [m, r].
        s: [r].
        vh: [r, n].
        columns: Its r columns in a flat z.
        outputs: Its m columns in the fused linear's y.
        all_outputs: Whether this rank holds all outputs of the matrix, for a part of its inputs at least.
    """

    name: str
    u: Tensor
    s: Tensor
    vh: Tensor
    columns: slice
    outputs: slice
    all_outputs: bool = True


def unpacked(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Take a weight as it is: the ``Pack`` of an engine that packs nothing."""
    return lambda x: torch.nn.functional.linear(x, weight)


def neighbours(parts: Sequence[PartFactors]) -> list[PartFactors]:
    """Return the parts in the order of a flat z.

    Raises:
        ValueError: No parts, or columns that are not neighbours.
    """
    ordered = sorted(parts, key=lambda part: part.columns.start)
    for before, after in pairwise(ordered):
        if before.columns.stop != after.columns.start:
            raise ValueError(f"{before.name} and {after.name} are not neighbours in a flat z")
    if not ordered:
        raise ValueError("a layer without parts needs no SVF linear")
    return ordered


def length(columns: slice) -> int:
    """Count the columns of a slice."""
    return int(columns.stop - columns.start)
