"""Parametrisations of z: from p, which the optimizer moves, to z. Each begins at z = 1, the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from zfleet.svf.factors import Factors


class Parametrisation(Protocol):
    """A differentiable function from p to z."""

    def start(self) -> Tensor:
        """Return the p of the base: [R]."""
        ...

    def z(self, p: Tensor) -> Tensor:
        """Compute z [R] float32 of p [R], differentiable."""
        ...


class SigmoidMass:
    """z = sigmoid(p) * sum(s) / sum(s * sigmoid(p)), the sums over each matrix: its singular values keep their sum.

    As in the reference implementation of arXiv 2501.06252, whose factor ``max_mult`` the rescale cancels.
    """

    def __init__(self, factors: Factors, device: torch.device) -> None:
        ranks = torch.tensor(factors.layout.ranks, device=device)
        self._matrix = torch.repeat_interleave(torch.arange(len(ranks), device=device), ranks)
        self._s = factors.layout.flatten(factors.singular_values).float().to(device)
        self._mass = self._sums(self._s)

    def start(self) -> Tensor:
        # All p are equal, so that the rescale makes z exactly 1.
        return torch.zeros_like(self._s)

    def z(self, p: Tensor) -> Tensor:
        gate = torch.sigmoid(p)
        return gate * (self._mass / self._sums(self._s * gate))[self._matrix]

    def _sums(self, values: Tensor) -> Tensor:
        return torch.zeros(int(self._matrix[-1]) + 1, device=values.device).index_add(0, self._matrix, values)


class Elementwise:
    """z = f(p), each direction by itself."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], start: float, factors: Factors, device: torch.device
    ) -> None:
        self._function = function
        self._start = torch.full((factors.layout.size,), start, device=device)

    def start(self) -> Tensor:
        return self._start.clone()

    def z(self, p: Tensor) -> Tensor:
        return self._function(p)


PARAMETRISATIONS: Mapping[str, Callable[[Factors, torch.device], Parametrisation]] = {
    "sigmoid": SigmoidMass,
    "direct": partial(Elementwise, lambda p: p, 1.0),
    "exp": partial(Elementwise, torch.exp, 0.0),
}
"""By their names in specs; docs/training.md says what each is for."""
