"""Parametrisations of z: from p, which the optimizer moves, to z. Each begins at z = 1, the base, unless told where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from zfleet.errors import InvalidZ
from zfleet.svf.factors import Factors

_MASS_TOLERANCE = 1e-4
"""Relative: ``SigmoidMass.z`` sums in float32, which is off by 1e-5 over 14,336 values, and mixtures add up."""


class Parametrisation(Protocol):
    """A differentiable function from p to z."""

    def start(self) -> Tensor:
        """Return the p of the base: [R]."""
        ...

    def z(self, p: Tensor) -> Tensor:
        """Compute z [R] float32 of p [R], differentiable."""
        ...

    def p(self, z: Tensor) -> Tensor:
        """Compute a p [R] float32 whose z is the given one [R], up to the rounding of both to float32.

        Raises:
            InvalidZ: No p has this z; names a matrix.
        """
        ...


class SigmoidMass:
    """z = sigmoid(p) * sum(s) / sum(s * sigmoid(p)), the sums over each matrix: its singular values keep their sum.

    As in the reference implementation of arXiv 2501.06252, whose factor ``max_mult`` the rescale cancels.
    """

    def __init__(self, factors: Factors, device: torch.device) -> None:
        self._names = factors.layout.names
        self._matrix = _matrix_of_each(factors, device)
        self._s = factors.layout.flatten(factors.singular_values).float().to(device)
        self._mass = self._sums(self._s)

    def start(self) -> Tensor:
        # All p are equal, so that the rescale makes z exactly 1.
        return torch.zeros_like(self._s)

    def z(self, p: Tensor) -> Tensor:
        gate = torch.sigmoid(p)
        return gate * (self._mass / self._sums(self._s * gate))[self._matrix]

    def p(self, z: Tensor) -> Tensor:
        """As ``Parametrisation.p``: a z above 0 that keeps the sum of each matrix's singular values.

        The rescale cancels any factor of a matrix's gates, so that gates c * z give this z for each c that keeps them
        below 1. With c = 1 / (1 + max z of the matrix), p = logit(c z) = log(z / (1 + max z - z)); at the base it is 0.
        A sum that is off within the rounding of float32 is set right by the rescale: z changes by as much.
        """
        _check_positive(z, self._names, self._matrix)
        exact, s = z.double(), self._s.double()
        mass = self._sums(s * exact) / self._sums(s)
        if len(off := torch.nonzero(~((mass - 1).abs() <= _MASS_TOLERANCE))):
            matrix = int(off[0])
            raise InvalidZ(
                f"z of {self._names[matrix]} changes the sum of its singular values by the factor "
                f"{float(mass[matrix]):.6g}: learner.parametrisation `sigmoid` keeps it",
                "set learner.parametrisation to `direct`, or to `exp` if all values are above 0",
            )
        largest = torch.zeros_like(mass).scatter_reduce(0, self._matrix, exact, "amax")[self._matrix]
        return (exact / (1 + largest - exact)).log().float()

    def _sums(self, values: Tensor) -> Tensor:
        return torch.zeros(len(self._names), dtype=values.dtype, device=values.device).index_add(
            0, self._matrix, values
        )


class Exponential:
    """z = exp(p), each direction by itself: always above 0."""

    def __init__(self, factors: Factors, device: torch.device) -> None:
        self._names = factors.layout.names
        self._matrix = _matrix_of_each(factors, device)

    def start(self) -> Tensor:
        return torch.zeros(len(self._matrix), device=self._matrix.device)

    def z(self, p: Tensor) -> Tensor:
        return torch.exp(p)

    def p(self, z: Tensor) -> Tensor:
        """As ``Parametrisation.p``: of a z above 0."""
        _check_positive(z, self._names, self._matrix)
        return z.double().log().float()


class Direct:
    """z = p."""

    def __init__(self, factors: Factors, device: torch.device) -> None:
        self._start = torch.ones(factors.layout.size, device=device)

    def start(self) -> Tensor:
        return self._start.clone()

    def z(self, p: Tensor) -> Tensor:
        return p

    def p(self, z: Tensor) -> Tensor:
        """As ``Parametrisation.p``: of any z."""
        return z.clone()


def _matrix_of_each(factors: Factors, device: torch.device) -> Tensor:
    """Return the place of each value's matrix in the layout: [R] int64."""
    ranks = torch.tensor(factors.layout.ranks, device=device)
    return torch.repeat_interleave(torch.arange(len(ranks), device=device), ranks)


def _check_positive(z: Tensor, names: tuple[str, ...], matrix: Tensor) -> None:
    """Refuse a z that a function with values above 0 cannot have.

    Args:
        z: [R].
        names: Of the matrices.
        matrix: Of each value, the place of its matrix in ``names``: [R].
    """
    if len(low := torch.nonzero(~(z > 0))):
        place = int(low[0])
        raise InvalidZ(
            f"z of {names[int(matrix[place])]} has the value {float(z[place]):.6g}: learner.parametrisation `sigmoid` "
            "and `exp` have values above 0 only",
            "set learner.parametrisation to `direct`, or start at a z whose values are all above 0",
        )


PARAMETRISATIONS: Mapping[str, Callable[[Factors, torch.device], Parametrisation]] = {
    "sigmoid": SigmoidMass,
    "direct": Direct,
    "exp": Exponential,
}
"""By their names in specs; docs/training.md says what each is for."""
