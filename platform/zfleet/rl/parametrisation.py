"""How a z is learned: z = sigmoid(p), rescaled so that each matrix keeps the sum of its singular values.

As in the reference implementation of arXiv 2501.06252, whose factor ``max_mult`` the rescale cancels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zfleet.svf.factors import Factors

START = 0.0
"""Where every p begins: all equal, so that the rescale makes z exactly 1, the base."""


class SigmoidMass:
    """p [R] to z [R] with z = sigmoid(p) * sum(s) / sum(s * sigmoid(p)), the sums over each matrix."""

    def __init__(self, factors: Factors, device: torch.device) -> None:
        ranks = torch.tensor(factors.layout.ranks, device=device)
        self._matrix = torch.repeat_interleave(torch.arange(len(ranks), device=device), ranks)
        self._s = factors.layout.flatten(factors.singular_values).float().to(device)
        self._mass = self._sums(self._s)

    def z(self, p: Tensor) -> Tensor:
        """[R] float32, differentiable in p."""
        gate = torch.sigmoid(p)
        return gate * (self._mass / self._sums(self._s * gate))[self._matrix]

    def start(self) -> Tensor:
        """The p of the base: [R]."""
        return torch.full_like(self._s, START)

    def _sums(self, values: Tensor) -> Tensor:
        return torch.zeros(int(self._matrix[-1]) + 1, device=values.device).index_add(0, self._matrix, values)
