"""Carrying an expert to another base that holds the same matrices, as a language model in a vision-language model."""

from __future__ import annotations

import torch

from zfleet.errors import WrongBase
from zfleet.svf.factors import Factors, MatrixFactors
from zfleet.svf.zvector import ZVector

_TOLERANCE = 1e-5
"""Relative to a matrix's Frobenius norm; factors that were computed elsewhere differ by a hundredth of it."""


def carry(z: ZVector, origin: Factors, to: Factors) -> ZVector:
    """Carry an expert to another base: it changes the same matrices, by name, into the same matrices.

    Weights that are no targets are not compared: a base whose embeddings or norms were trained on may answer otherwise.

    Args:
        origin: The factors it was trained on.
        to: Those of the other base.

    Raises:
        WrongBase: The z belongs to other factors than ``origin``, or a matrix (named) is another one there.
        InvalidZ: The bases have other matrices.
    """
    z.check_fits(base=origin.base, factors=origin.digest, layout=origin.layout)
    z.check_layout(to.layout)
    for name, scale in z.values.items():
        difference = _difference(origin.matrices[name], to.matrices[name], scale)
        if not difference <= _TOLERANCE:
            raise WrongBase(
                f"{name} of base {to.base[:12]} differs from that of {origin.base[:12]}, on which z {z.digest[:12]} "
                f"was trained, by {difference:.2g} of its norm",
                "train an expert for this base",
            )
    return ZVector(z.values, to.base, to.digest, to.targets)


def _difference(first: MatrixFactors, second: MatrixFactors, scale: torch.Tensor) -> float:
    """Compute the relative norm of the difference of U diag(s) Vh or U diag(s * z) Vh, whichever differs more."""
    if all(torch.equal(a, b) for a, b in ((first.u, second.u), (first.s, second.s), (first.vh, second.vh))):
        return 0.0
    if first.u.shape != second.u.shape or first.vh.shape != second.vh.shape:
        return float("inf")
    pairs = [(first.merged(z), second.merged(z)) for z in (torch.ones_like(scale), scale)]
    return max(float((a - b).norm() / a.norm().clamp_min(1e-30)) for a, b in pairs)
