"""Form ``delta``: all linears with the chosen directions; exact until then, and for z that they do not fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zfleet.engine.contract import BASE_Z
from zfleet.engine.vllm_engine.linears.delta import DeltaLinear, cost
from zfleet.engine.vllm_engine.linears.factored import FactoredLinear
from zfleet.engine.vllm_engine.linears.parts import Linear, Pack, PartFactors, length, unpacked
from zfleet.engine.vllm_engine.linears.step_rows import Assignment, StepBuffers, StepLinear, StepRows, TokenRows

_WORTH = 0.9
"""The largest share of the exact form's multiplications for which fewer directions are taken: small matrix products
take longer than their multiplications say."""


class DeltaForm:
    """All linears in few directions of each matrix, and the exact form beside it.

    A linear whose few directions would cost about as much as all of them is computed exactly.
    """

    def __init__(self, pack: Pack = unpacked) -> None:
        self._pack = pack
        self._linears: list[_Linear] = []
        self._step: DeltaStep | None = None
        self._singular = torch.empty(0)

    def linear(self, plain: Linear, weight: Tensor, parts: Sequence[PartFactors]) -> StepLinear:
        """As ``Form.linear``."""
        linear = _Linear(plain, len(weight), parts, weight.dtype, self._pack)
        self._linears.append(linear)

        def compute(x: Tensor, bias: Tensor | None) -> Tensor:
            return linear(x, bias, self.step)

        return compute

    def open(self, rows: int, tokens: int, size: int, device: torch.device) -> StepRows:
        """As ``Form.open``."""
        self._singular = torch.empty(size)
        for part in self._parts:
            self._singular[part.columns] = part.s.cpu()
        self._step = DeltaStep(StepBuffers(rows, size, tokens, device))
        return self._step

    @property
    def step(self) -> DeltaStep:
        """The step under way."""
        assert self._step is not None, "the form is not open"
        return self._step

    @property
    def singular_values(self) -> Tensor:
        """The singular values of all matrices: [R] float32, in the order of a flat z."""
        return self._singular

    def set_directions(self, kept: Tensor) -> Tensor:
        """Compute with other directions from the next step on.

        Args:
            kept: Those to compute with: [R] bool.

        Returns:
            Those that it computes with: [R] bool. All of a matrix that is computed exactly.
        """
        kept = kept.clone()
        places: list[Tensor] = []
        exact_cost = cost = of_few = width = 0
        for linear in self._linears:
            chosen = [kept[part.columns].nonzero()[:, 0] for part in linear.parts]
            few = linear.cost(chosen)
            exact_cost += linear.exact_cost
            if few > _WORTH * linear.exact_cost:
                linear.take(None, 0)
                cost += linear.exact_cost
                for part in linear.parts:
                    kept[part.columns] = True
            else:
                linear.take(chosen, width)
                cost += few
                of_few += linear.exact_cost
                width += sum(map(len, chosen))
                places += [part.columns.start + own for part, own in zip(linear.parts, chosen, strict=True)]
        share = (exact_cost - cost) / of_few if of_few else 0.0
        self.step.set_directions(torch.cat(places) if places else torch.empty(0, dtype=torch.int64), share)
        return kept

    @property
    def _parts(self) -> list[PartFactors]:
        return [part for linear in self._linears for part in linear.parts]


class DeltaStep(StepRows):
    """The steps of form ``delta``.

    Attributes:
        changes: z - 1 of each token in the chosen directions; 0 for tokens of the base, and for those that are exact.
        whole: Whether all tokens of the current step are computed exactly.
        exact: Otherwise, the places of those that are: [t] int64; None if there are none.
        exact_rows: The z of those: [t, R].
    """

    def __init__(self, buffers: StepBuffers) -> None:
        """Start without directions."""
        super().__init__(buffers)
        self.whole = False
        self.exact: Tensor | None = None
        self.exact_rows = TokenRows(buffers.table)
        self.set_directions(torch.empty(0, dtype=torch.int64), 0.0)

    def set_directions(self, directions: Tensor, share: float) -> None:
        """Change the directions.

        Args:
            directions: Their places in a flat z: [K] int64, in the order of the linears.
            share: Up to this share of exact tokens, computing those once more costs less than all of them exactly.
        """
        table = self._buffers.table
        self._directions, self._share = directions, share
        self._changes = torch.zeros(len(table), len(directions), device=table.device)
        self.changes = TokenRows(self._changes)
        self._contents = [BASE_Z] * len(table)

    def _fill(self, one: Assignment) -> None:
        super()._fill(one)
        self._changes[one.row] = 0.0 if one.exact else self.known[one.digest][self._directions] - 1.0

    def _gather(
        self, assignments: Sequence[Assignment], counts: NDArray[np.int32], rows: NDArray[np.int64], changed: bool
    ) -> None:
        super()._gather(assignments, counts, rows, changed)
        self.changes.begin(rows, changed)
        alike = np.fromiter((one.exact and one.row != 0 for one in assignments), np.bool_, len(assignments))
        places = np.flatnonzero(np.repeat(alike, counts))
        self.whole = len(places) > self._share * len(rows)
        self.exact = torch.from_numpy(places) if len(places) else None
        self.exact_rows.begin(rows[places], changed)


class _Linear:
    """One linear: what it costs, and how a step computes it.

    Attributes:
        parts: Its matrices that have factors.
        exact_cost: Multiplications for a token with all directions.
    """

    def __init__(
        self, plain: Linear, outputs: int, parts: Sequence[PartFactors], dtype: torch.dtype, pack: Pack
    ) -> None:
        self.parts = list(parts)
        self._plain, self._dtype = plain, dtype
        self._factored = FactoredLinear(plain, outputs, parts, dtype, pack)
        self._delta: DeltaLinear | None = None
        self._columns = slice(0, 0)
        whole = sum(length(part.outputs) for part in parts) == outputs
        self._dense = outputs * parts[0].vh.shape[1]
        factors = sum(part.u.numel() + part.vh.numel() for part in parts)
        self.exact_cost = factors if whole else factors + self._dense

    def cost(self, directions: Sequence[Tensor]) -> int:
        """Count the multiplications for a token with these directions of each part."""
        return self._dense + sum(cost(part, len(own)) for part, own in zip(self.parts, directions, strict=True))

    def take(self, directions: Sequence[Tensor] | None, start: int) -> None:
        """Compute with these directions of each part from now on, or exactly.

        Args:
            directions: Indices for each part; None for all.
            start: Where their columns begin in ``DeltaStep.changes``.
        """
        self._delta = None
        if directions is not None:
            self._delta = DeltaLinear(self._plain, self.parts, directions, self._dtype)
            self._columns = slice(start, start + self._delta.width)

    def __call__(self, x: Tensor, bias: Tensor | None, step: DeltaStep) -> Tensor:
        """Map x [T, n] to [T, m]."""
        factored, delta = self._factored, self._delta
        if not step.mixed:
            return self._plain(x, bias)
        if step.whole or delta is None:
            return factored(x, step.of(factored.columns), bias)
        y = delta(x, step.changes.of(self._columns), bias)
        if step.exact is not None:
            y[step.exact] = factored(x[step.exact], step.exact_rows.of(factored.columns), bias)
        return y
