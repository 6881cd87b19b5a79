"""Which singular directions the rank-k form keeps, and how large the error is.

An expert's change of a matrix is W' - W = U diag(d) Vh with d = s * (z - 1). U and V are orthonormal, so |d| are
its singular values: of all rank-k changes, keeping the k largest |d| is the nearest (Eckart and Young), and
the error has the Frobenius norm sqrt(sum of the dropped d^2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Truncation:
    """The error of keeping some directions only, for each expert.

    Attributes:
        absolute: ||dropped d||, the Frobenius norm of the change that is missing: [E] float64.
        relative: The same over ||d||; 0 if an expert changes nothing: [E] float64.
    """

    absolute: Tensor
    relative: Tensor


def changes(z: Tensor, s: Tensor) -> Tensor:
    """Compute d = s * (z - 1), in float64: [E, r] from z [E, r] and s [r]."""
    return s.double() * (z.double() - 1.0)


def choose_directions(z: Tensor, s: Tensor, k: int) -> Tensor:
    """Choose the k directions of a matrix that matter most to the experts served together.

    The directions are shared by all experts in the batch; one is worth what the expert that changes it
    most makes of it: max over experts of |d|.

    Args:
        z: The experts' z of this matrix: [E, r], E >= 1.
        s: Its singular values: [r].
        k: How many; all r when r is smaller.

    Returns:
        Indices in ascending order: [min(k, r)] int64. Ties go to the larger singular value.
    """
    weight = changes(z, s).abs().amax(dim=0)
    order = torch.argsort(weight, descending=True, stable=True)
    return order[:k].sort().values


def truncation(z: Tensor, s: Tensor, kept: Tensor) -> Truncation:
    """Compute the exact error of keeping these directions only: z [E, r], s [r], kept [k]."""
    d = changes(z, s)
    dropped = d.clone()
    dropped[:, kept] = 0.0
    absolute, whole = dropped.norm(dim=1), d.norm(dim=1)
    return Truncation(absolute, torch.where(whole > 0, absolute / whole, torch.zeros_like(whole)))
