"""The factors of a base: U, s and Vh of each target matrix."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zfleet.errors import FactorsError
from zfleet.svf.digest import digest_tensors
from zfleet.svf.layout import ZLayout, layer_of


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

    def merged(self, z: Tensor) -> Tensor:
        """U diag(s * z) Vh, computed in float64: [m, n] float64."""
        return (self.u.double() * (self.s.double() * z.double())) @ self.vh.double()


def decompose(weight: Tensor, dtype: torch.dtype) -> MatrixFactors:
    """The thin SVD of a matrix [m, n], computed in float64 and rounded once to ``dtype``.

    Raises:
        FactorsError: The weight holds NaN or infinite values.
    """
    if not bool(torch.isfinite(weight).all()):
        raise FactorsError("a weight holds NaN or infinite values", "the base is damaged: fetch it again")
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return MatrixFactors(u.to(dtype).contiguous(), s.to(dtype).contiguous(), vh.to(dtype).contiguous())


@dataclass(frozen=True, eq=False)
class Factors:
    """The factors of all target matrices of one base.

    Attributes:
        matrices: {module path: factors}, in the order of the base's modules.
        base: Fingerprint of the base.
        targets: Which matrices were chosen.
    """

    matrices: Mapping[str, MatrixFactors]
    base: str
    targets: str

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
        """The identity of these very numbers: a z means something on them alone."""
        layers: dict[int, dict[str, MatrixFactors]] = {}
        for name, matrix in self.matrices.items():
            layers.setdefault(layer_of(name), {})[name] = matrix
        return combine_digests(self.base, self.targets, [layer_digest(layers[index]) for index in sorted(layers)])


def layer_tensors(matrices: Mapping[str, MatrixFactors]) -> dict[str, Tensor]:
    """The tensors of one layer's file: ``<module path>|u``, ``|s`` and ``|vh``."""
    return {
        f"{name}|{part}": tensor
        for name, matrix in matrices.items()
        for part, tensor in (("u", matrix.u), ("s", matrix.s), ("vh", matrix.vh))
    }


def layer_digest(matrices: Mapping[str, MatrixFactors]) -> str:
    """Digest of one layer's factors."""
    return digest_tensors(layer_tensors(matrices))


def combine_digests(base: str, targets: str, layers: list[str]) -> str:
    """Digest of all factors from those of the layers, in order."""
    return hashlib.sha256("\0".join([base, targets, *layers]).encode()).hexdigest()
