"""The SVF linear of a long pass under one z: W' composed once, and z's gradient through a dense dW'.

Per token the factored form multiplies by Vh and by U s, forward and backward; W' = U diag(s z) Vh takes one product
forward, and backward one for dx and one for dW'. Composing W' and going from dW' to dz cost the same however many
tokens there are. So this form wins on matrices that are nearly square, from some number of tokens on, and only where
one z serves them all: a learner's pass of one expert. Both forms are as exact; they round differently.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_WORTH = 0.9
"""Compose if it takes less than this share of the factors' multiplications. A smaller gain is not worth that an expert
which learns alone rounds otherwise than in a cohort."""


def composing_pays(tokens: int, us: Tensor, vh: Tensor) -> bool:
    """Whether composing saves a tenth of the multiplications that the factors take, forward and backward.

    Args:
        tokens: Of the whole pass.
        us: [m, r].
        vh: [r, n].
    """
    (m, r), n = us.shape, vh.shape[1]
    return 3 * tokens * m * n + 2 * m * n * r < _WORTH * 2 * tokens * r * (m + n)


def composed_linear(x: Tensor, z: Tensor, us: Tensor, vh: Tensor, bias: Tensor | None) -> Tensor:
    """Compute y = x (U diag(s z) Vh)^T + b, with gradients for x and z alone: [..., n] to [..., m].

    Args:
        x: [..., n].
        z: [r] float32, of all tokens.
        us: [m, r], columns scaled by s, in the precision of x.
        vh: [r, n], likewise.
        bias: [m].
    """
    out: Tensor = _ComposedLinear.apply(x, z, us, vh, bias)  # type: ignore[no-untyped-call]
    return out


class _ComposedLinear(torch.autograd.Function):
    """Keeps x and W' for the way back: dW' lives for one matrix at a time, and no h = x V is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, us: Tensor, vh: Tensor, bias: Tensor | None) -> Tensor:
        # Scale in z's own precision, as the factored form scales h.
        weight = us @ (z.unsqueeze(1) * vh).to(x.dtype)
        ctx.save_for_backward(x, weight, us, vh)
        ctx.precision = z.dtype
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        x, weight, us, vh = ctx.saved_tensors
        d_weight = dy.flatten(0, -2).T @ x.flatten(0, -2)
        dz = ((us.T @ d_weight).to(ctx.precision) * vh).sum(1)
        return dy @ weight if ctx.needs_input_grad[0] else None, dz, None, None, None
