"""How vLLM lays matrices out: several in one linear, and each split over the ranks of tensor parallelism.

It computes q, k and v in one ``qkv_proj``, gate and up in one ``gate_up_proj``, and keeps all other linears of the
supported families under Hugging Face's module paths (``packed_modules_mapping`` of its model files; Phi runs on its
Transformers backend, which fuses q, k and v alike). Phi-3's checkpoints hold both fused already. Every matrix keeps
its own SVD, wherever it is computed.

A rank that holds some outputs of W holds those rows of U; a rank that holds some inputs holds those columns of
Vh. s, and with it z, is whole on every rank, so that one table of z rows serves all of them. Splitting inputs
gives partial sums, which the engine adds over ranks as it does for W itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.errors import FactorsError
from zfleet.svf.factors import MatrixFactors

_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def parts_of(path: str, names: Collection[str]) -> tuple[str, ...]:
    """List the Hugging Face matrices whose outputs a linear of vLLM's holds, side by side, in the order of its shards.

    Args:
        path: Module path of a linear in vLLM's model, such as ``model.layers.0.self_attn.qkv_proj``.
        names: All matrices that have factors. A path among them is one matrix, fused in the base itself (Phi-3).

    Returns:
        Module paths in the Hugging Face model. Those not among ``names`` are no targets and keep z = 1.
    """
    parent, _, leaf = path.rpartition(".")
    if path in names or leaf not in _FUSED:
        return (path,)
    return tuple(f"{parent}.{part}" for part in _FUSED[leaf])


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
    """Select a column-parallel rank's factors of W [m, n]: its rows of U, all of s and Vh.

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
    # One share is a view, so that factors that are mapped from files stay so.
    return MatrixFactors(shares[0] if len(shares) == 1 else torch.cat(shares), matrix.s, matrix.vh)


def shard_inputs(matrix: MatrixFactors, rank: int, world: int) -> MatrixFactors:
    """Select a row-parallel rank's factors of W [m, n]: its columns of Vh, all of U and s.

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
