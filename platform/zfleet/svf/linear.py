"""The SVF linear: y = ((x V) * z) (U s)^T + b, with a z of its own for every row of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from zfleet.svf.composed import composed_linear, composing_pays
from zfleet.svf.factors import LinearFactors, MatrixFactors

Rows = dict[str, Tensor]
"""{matrix: z [B, r]} of the batch under way; [1, r] if all rows share one z."""


class RowBinding:
    """Which z each row of the batch uses; every SVF linear of a model reads it here.

    It is a context variable, so that a learner and an engine can share one model from different threads.
    """

    def __init__(self) -> None:
        self._rows: ContextVar[Rows | None] = ContextVar("zfleet_rows", default=None)

    @property
    def rows(self) -> Rows | None:
        """The rows bound now; None is the base alone."""
        return self._rows.get()

    @contextmanager
    def bound(self, rows: Rows | None) -> Iterator[None]:
        """Use these rows inside the block."""
        token = self._rows.set(rows)
        try:
            yield
        finally:
            self._rows.reset(token)


class SvfLinear(nn.Module):
    """A linear layer in factored form that keeps its dense weight for batches of base rows alone.

    Cost does not depend on how many different z are in the batch. Gradients flow to z only: W, U, s and
    Vh are frozen. One z that learns from many tokens takes the form of ``composed.py`` if that is less work.
    """

    weight: Tensor | None
    us: Tensor
    vh: Tensor
    bias: Tensor | None

    def __init__(
        self, name: str, linear: nn.Linear, factors: MatrixFactors | LinearFactors, binding: RowBinding
    ) -> None:
        super().__init__()
        weight = linear.weight.detach()
        held = factors if isinstance(factors, LinearFactors) else LinearFactors.of(factors, weight.dtype)
        self.name = name
        self.binding = binding
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)
        self.register_buffer("us", held.us.to(weight.device), persistent=False)
        self.register_buffer("vh", held.vh.to(weight.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, n] to [B, T, m], row i under its own z."""
        rows = self.binding.rows
        if rows is None and self.weight is not None:
            return functional.linear(x, self.weight, self.bias)
        z = None if rows is None else rows[self.name]
        if z is not None and self._composes(z, x.shape[:-1].numel()):
            return composed_linear(x, z[0], self.us, self.vh, self.bias)
        h = functional.linear(x, self.vh)
        if z is not None:
            # Scale in z's own precision: near 1 bfloat16 has steps of 1/128, as large as an expert's changes.
            # Expanded also if there is one z: gradients are then summed as in a cohort, to the last bit.
            h = h * z.expand(len(x), -1).unsqueeze(1)
        return functional.linear(h.to(x.dtype), self.us, self.bias)

    def _composes(self, z: Tensor, tokens: int) -> bool:
        # Only if z learns: an engine's answers must not depend on how many tokens a pass has. And only if W is held:
        # if it was dropped for lack of memory, there is no room for W' either.
        alone = len(z) == 1 and z.requires_grad and self.weight is not None
        return alone and composing_pays(tokens, self.us, self.vh)

    def forget_weight(self) -> None:
        """Drop W, and hold the rest as frozen parameters, which can be sharded over processes as buffers cannot.

        Base rows run on the factors from then on.
        """
        held = {"us": self.us, "vh": self.vh, "bias": self.bias}
        self.weight = None
        for name, tensor in held.items():
            delattr(self, name)
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))


def replace_linears(
    model: nn.Module, factors: Mapping[str, MatrixFactors | LinearFactors], binding: RowBinding
) -> None:
    """Replace the linear of every matrix that has factors by an SVF linear, and freeze the model."""
    model.requires_grad_(False)
    for name, matrix in factors.items():
        parent, _, leaf = name.rpartition(".")
        linear = model.get_submodule(name)
        if isinstance(linear, SvfLinear):
            raise ValueError(f"{name} is an SVF linear already: load the base again")
        assert isinstance(linear, nn.Linear)
        setattr(model.get_submodule(parent), leaf, SvfLinear(name, linear, matrix, binding))


@torch.no_grad()
def merge_into(model: nn.Module, factors: dict[str, MatrixFactors], z: dict[str, Tensor]) -> None:
    """Give the plain linears of a model W' = U diag(s * z) Vh: one expert, as an ordinary model.

    They get new weights; the old ones may be mapped, and belong to tied matrices too.
    """
    for name, matrix in factors.items():
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        weight = linear.weight
        linear.weight = nn.Parameter(matrix.merged(z[name]).to(weight), requires_grad=weight.requires_grad)
