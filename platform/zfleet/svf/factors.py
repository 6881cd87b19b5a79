"""The factors of a base: U, s and Vh of each target matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zfleet.errors import FactorsError
from zfleet.svf.digest import combine_digests, digest_tensors
from zfleet.svf.layout import ZLayout

_ROWS = 1024
"""How many rows of U diag(s) Vh are computed at once to compare it with W."""


@dataclass(frozen=True, eq=False)
class MatrixFactors:
    """W = U diag(s) Vh of one matrix W [m, n], r = min(m, n).

    Attributes:
        u: [m, r].
        s: [r], descending, not negative.
        vh: [r, n].
    """

    u: Tensor
    s: Tensor
    vh: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """m and n."""
        return self.u.shape[0], self.vh.shape[1]

    def merged(self, z: Tensor) -> Tensor:
        """Compute U diag(s * z) Vh in float64: [m, n] float64."""
        return (self.u.double() * (self.s.double() * z.double())) @ self.vh.double()

    def error(self, weight: Tensor) -> float:
        """Compute the relative error of the factors: the Frobenius norm of W - U diag(s) Vh over that of W, in float64.

        Args:
            weight: W [m, n].
        """
        vh = self.s.double().unsqueeze(1) * self.vh.double()
        off = norm = 0.0
        for u, rows in zip(self.u.split(_ROWS), weight.split(_ROWS), strict=True):
            exact = rows.double()
            norm += float(exact.square().sum())
            off += float((exact - u.double() @ vh).square().sum())
        return math.sqrt(off / norm if norm else off)


@dataclass(frozen=True, eq=False)
class LinearFactors:
    """What an SVF linear computes with, in the precision that it computes in.

    Attributes:
        us: U diag(s): [m, r].
        vh: [r, n].
    """

    us: Tensor
    vh: Tensor

    @classmethod
    def of(cls, matrix: MatrixFactors, dtype: torch.dtype) -> LinearFactors:
        """Compute them in memory: the product in float64, rounded once."""
        return cls((matrix.u.double() * matrix.s.double()).to(dtype).contiguous(), matrix.vh.to(dtype))


def decompose(weight: Tensor, dtype: torch.dtype, what: str = "a weight") -> MatrixFactors:
    """Compute the thin SVD of a matrix [m, n] in float64, and round it once to ``dtype``.

    Args:
        weight: The matrix.
        dtype: Of the factors.
        what: Names the matrix in an error.

    Raises:
        FactorsError: The weight holds NaN or infinite values.
    """
    if not bool(torch.isfinite(weight).all()):
        raise FactorsError(f"{what} holds NaN or infinite values", "the base is damaged: fetch it again")
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return MatrixFactors(u.to(dtype).contiguous(), s.to(dtype).contiguous(), vh.to(dtype).contiguous())


@dataclass(frozen=True, eq=False)
class Factors:
    """The factors of all target matrices of one base.

    Attributes:
        matrices: {module path: factors}, in the order of the base's modules.
        base: Fingerprint of the base.
        targets: Which matrices were chosen.
        verified: Their digest, if it need not be computed: who made this object has checked every matrix.
    """

    matrices: Mapping[str, MatrixFactors]
    base: str
    targets: str
    verified: str | None = None

    @cached_property
    def layout(self) -> ZLayout:
        """Order and ranks of a z on these factors."""
        return ZLayout(tuple(self.matrices), tuple(m.s.numel() for m in self.matrices.values()))

    @cached_property
    def singular_values(self) -> dict[str, Tensor]:
        """{matrix: s [r]}."""
        return {name: matrix.s for name, matrix in self.matrices.items()}

    @cached_property
    def digest(self) -> str:
        """The identity of these numbers: a z means something only on them."""
        if self.verified is not None:
            return self.verified
        return combine_digests(self.base, self.targets, (matrix_digest(*one) for one in self.matrices.items()))


def matrix_digest(name: str, matrix: MatrixFactors) -> str:
    """Compute the digest of one matrix's factors and name."""
    return digest_tensors({"u": matrix.u, "s": matrix.s, "vh": matrix.vh}, name)
