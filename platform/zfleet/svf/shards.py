"""Tensor parallelism: the part of a matrix's factors that one rank holds.

A rank that holds some outputs of W holds those rows of U; a rank that holds some inputs holds those columns of
Vh. s, and with it z, is whole on every rank, so that one table of z rows serves all of them. Splitting inputs
gives partial sums, which the engine adds over ranks as it does for W itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.errors import FactorsError
from zfleet.svf.factors import MatrixFactors


@dataclass(frozen=True)
class OutputPart:
    """Outputs of a matrix that are split over the ranks on their own.

    Attributes:
        size: How many outputs, over all ranks.
        replicas: So many neighbouring ranks hold the same share: fewer key-value heads than ranks.
    """

    size: int
    replicas: int = 1


def shard_outputs(matrix: MatrixFactors, parts: tuple[OutputPart, ...], rank: int, world: int) -> MatrixFactors:
    """A column-parallel rank's factors of W [m, n]: its rows of U, all of s and Vh.

    Args:
        matrix: The whole matrix's factors.
        parts: One, or those that the base stores as one matrix (Phi-3: q, k and v; gate and up), in order.
        rank: Which rank, from 0.
        world: How many ranks.

    Raises:
        FactorsError: Parts that are not m outputs in all, or that the ranks cannot share evenly.
    """
    outputs = matrix.u.shape[0]
    if sum(part.size for part in parts) != outputs:
        raise FactorsError(
            f"parts of {[part.size for part in parts]} outputs do not make the matrix's {outputs}",
            "give every part's outputs, over all ranks",
        )
    whole = matrix.u.split([part.size for part in parts])
    shares = [
        _share(rows, 0, rank // part.replicas, _divide(world, part.replicas, "ranks", "replicas"))
        for rows, part in zip(whole, parts, strict=True)
    ]
    return MatrixFactors(torch.cat(shares), matrix.s, matrix.vh)


def shard_inputs(matrix: MatrixFactors, rank: int, world: int) -> MatrixFactors:
    """A row-parallel rank's factors of W [m, n]: its columns of Vh, all of U and s.

    Raises:
        FactorsError: The ranks cannot share the n inputs evenly.
    """
    return MatrixFactors(matrix.u, matrix.s, _share(matrix.vh, 1, rank, world).contiguous())


def _share(tensor: Tensor, dim: int, index: int, shares: int) -> Tensor:
    size = _divide(tensor.shape[dim], shares, "inputs" if dim else "outputs", "ranks")
    return tensor.narrow(dim, index * size, size)


def _divide(count: int, by: int, what: str, among: str) -> int:
    if count % by:
        raise FactorsError(
            f"{count} {what} cannot be shared evenly among {by} {among}",
            "choose a tensor-parallel size that divides the base's heads and widths",
        )
    return count // by
