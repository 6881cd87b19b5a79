"""Projecting a change of a matrix onto its singular directions: the nearest z, and the residual that no z can express.

A z changes W by U diag(d) Vh with d = s (z - 1). U and V have orthonormal columns, so that of all such changes the
nearest to D, in the Frobenius norm, has d_i = u_i^T D v_i, and hence z_i = 1 + u_i^T D v_i / s_i.

r = min(m, n), so that one of U and V is square and orthogonal, and a product with it keeps the norm. With V square,

    ||D - U diag(d) Vh|| = ||D V - U diag(d)||,

and ||U^T D - diag(d) Vh|| with U square. Both z and the residual therefore follow from one product, D V or U^T D, of
which a D = B A of low rank needs no dense matrix; and the residual is no difference of two large numbers, which would
leave nothing of a small one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.svf.directions import changes
from zfleet.svf.factors import MatrixFactors


@dataclass(frozen=True)
class Residual:
    """How much of a change a z leaves out, in Frobenius norms.

    Attributes:
        matrix: Whose change it is, or several matrices together.
        change: ||D||.
        residual: ||D - U diag(d) Vh||.
    """

    matrix: str
    change: float
    residual: float

    @property
    def relative(self) -> float:
        """The residual over the change; 0 if nothing changes."""
        return self.residual / self.change if self.change else 0.0

    @classmethod
    def total(cls, parts: Iterable[Residual]) -> Residual:
        """Add up those of several matrices."""
        listed = list(parts)
        change, residual = (math.hypot(*(getattr(one, field) for one in listed)) for field in ("change", "residual"))
        return cls("all", change, residual)


def project_dense(name: str, change: Tensor, factors: MatrixFactors) -> tuple[Tensor, Residual]:
    """Project a change that is given as a matrix.

    Args:
        name: Of the matrix.
        change: D [m, n].
        factors: Of the matrix.

    Returns:
        z [r] float32, and what it leaves out: of the z as rounded.
    """
    d = change.double()
    if _tall(factors):
        return _project(name, d @ factors.vh.double().T, factors.u.double(), factors.s)
    return _project(name, d.T @ factors.u.double(), factors.vh.double().T, factors.s)


def project_product(name: str, b: Tensor, a: Tensor, factors: MatrixFactors) -> tuple[Tensor, Residual]:
    """Project a change B A of low rank, which is never multiplied out.

    Args:
        name: Of the matrix.
        b: B [m, k].
        a: A [k, n].
        factors: Of the matrix.

    Returns:
        As ``project_dense``.
    """
    b, a = b.double(), a.double()
    if _tall(factors):
        return _project(name, b @ (a @ factors.vh.double().T), factors.u.double(), factors.s)
    return _project(name, a.T @ (b.T @ factors.u.double()), factors.vh.double().T, factors.s)


def _tall(factors: MatrixFactors) -> bool:
    m, n = factors.shape
    return m >= n


def _project(name: str, rotated: Tensor, basis: Tensor, s: Tensor) -> tuple[Tensor, Residual]:
    """Project, given D V and U, or D^T U and V: [max(m, n), r] float64 both."""
    s = s.double()
    # Below the rounding of the decomposition, which ran in float64, a singular value is 0, and no z changes anything.
    known = s > s.max() * max(basis.shape) * torch.finfo(torch.float64).eps
    z = torch.where(known, 1 + (rotated * basis).sum(0) / s, 1.0).float()
    # In place: these are the largest tensors here.
    change = float(rotated.norm())
    missing = rotated.addcmul_(basis, changes(z, s).expand_as(basis), value=-1)
    return z, Residual(name, change, float(missing.norm()))
