"""Interference between experts, predicted from their z: how alike their changes of the base's matrices are.

An expert changes a matrix by W' - W = U diag(d) Vh, with d = s * (z - 1) (``directions.changes``). It is d and not
z - 1 that acts on the weights: a direction with a small singular value hardly changes W, however large its z is. U and
V have orthonormal columns, so that the inner product of two experts' changes is that of their d, and

    cosine(a, b) = <d_a, d_b> / (||d_a|| ||d_b||)

is the cosine between their flattened weight changes, the task vectors of task arithmetic (arXiv 2212.04089, section 5),
at the cost of z. Over several matrices, d is the concatenation of theirs.

Opposite signs cancel in a cosine: it is also 0 if two experts change the same directions, half of them in opposite
ways. The overlap does not cancel:

    overlap(a, b) = <|d_a|, |d_b|> / (||d_a|| ||d_b||)

It is 0 if each leaves alone what the other one changes, 1 if both change the same directions in the same proportions,
and never below |cosine|. Half of overlap - cosine is the part where signs oppose, the conflict that TIES merging looks
for (arXiv 2306.01708). Changes that are drawn independently and spread over the directions alike have an overlap of
2 / pi = 0.64 if d is normal: read it against that, not against 0.

Neither depends on how large the changes are. The size of a change is ||W' - W|| / ||W|| = ||d|| / ||s|| (Frobenius).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.errors import SpecError
from zfleet.svf.directions import changes
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike the changes of K experts are, pair by pair.

    An expert that changes nothing (z = 1) has no direction: its entries are NaN.

    Attributes:
        cosine: [K, K] float64, in [-1, 1].
        overlap: [K, K] float64, in [0, 1].
    """

    cosine: Tensor
    overlap: Tensor

    @property
    def angle(self) -> Tensor:
        """The angles between the changes, in degrees: [K, K] float64, in [0, 180]."""
        return torch.rad2deg(torch.acos(self.cosine))

    @classmethod
    def of(cls, products: Tensor, absolute: Tensor) -> Similarity:
        """Divide by the norms.

        Args:
            products: <d_a, d_b>: [K, K].
            absolute: <|d_a|, |d_b|>: [K, K].
        """
        norms = products.diagonal().sqrt()
        scale = torch.outer(norms, norms)
        # Rounding takes quotients of parallel changes a little beyond 1. 0 / 0 stays NaN.
        return cls((products / scale).clamp(-1.0, 1.0), (absolute / scale).clamp(0.0, 1.0))


@dataclass(frozen=True, eq=False)
class Interference:
    """What the z of K experts say of their interference.

    Attributes:
        experts: Their names, in the order of all rows and columns.
        size: ||d|| / ||s|| over all matrices together: [K] float64.
        overall: Over all matrices together.
        matrices: {matrix: over it alone}.
    """

    experts: tuple[str, ...]
    size: Tensor
    overall: Similarity
    matrices: Mapping[str, Similarity]


def predict_interference(experts: Mapping[str, ZVector], factors: Factors) -> Interference:
    """Compare the changes of all pairs of experts, matrix by matrix and over all matrices.

    Args:
        experts: {name: z}, at least two.
        factors: Those that all of them were trained on; only their singular values are read.

    Raises:
        SpecError: Fewer than two experts.
        WrongBase, InvalidZ: A z belongs to another base, other factors or other targets.
    """
    if len(experts) < 2:
        raise SpecError(f"{len(experts)} experts have no pairs", "name two experts or more")
    for z in experts.values():
        z.check_fits(base=factors.base, factors=factors.digest, layout=factors.layout)
    shape = (len(experts), len(experts))
    products, absolute = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    weights = 0.0
    matrices = {}
    for name, s in factors.singular_values.items():
        d = changes(torch.stack([z.values[name] for z in experts.values()]), s)
        own, own_absolute = d @ d.T, d.abs() @ d.abs().T
        matrices[name] = Similarity.of(own, own_absolute)
        products += own
        absolute += own_absolute
        weights += float(s.double().square().sum())
    size = (products.diagonal() / weights).sqrt()
    return Interference(tuple(experts), size, Similarity.of(products, absolute), matrices)
