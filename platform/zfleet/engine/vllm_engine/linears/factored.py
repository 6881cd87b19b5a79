"""Form ``factored``: y = ((x V) * z) (U s)^T, exact for every z; forward only, a z per token.

Rows are the z of the batch's tokens, gathered by the caller, who knows the table. Factors are packed as the engine
packs its weights, by the engine itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.engine.vllm_engine.linears.parts import Linear, Pack, PartFactors, length, neighbours, unpacked
from zfleet.engine.vllm_engine.linears.step_rows import StepBuffers, StepLinear, StepRows


class FactoredLinear:
    """y = ((x V) * z) (U s)^T + b: exact for every z.

    Attributes:
        columns: The columns of all parts in a flat z.
    """

    def __init__(
        self, plain: Linear, outputs: int, parts: Sequence[PartFactors], dtype: torch.dtype, pack: Pack = unpacked
    ) -> None:
        """Prepare the factors.

        Args:
            plain: The engine's own linear, which computes the outputs of parts without factors.
            outputs: m, the outputs of the fused linear on this rank.
            parts: The parts that have factors; their columns must be neighbours in a flat z.
            dtype: The engine's dtype.
            pack: Packs a weight as the engine does.

        Raises:
            ValueError: No parts, or columns that are not neighbours.
        """
        parts = neighbours(parts)
        start = parts[0].columns.start
        self.columns = slice(start, parts[-1].columns.stop)
        self._plain = plain
        self._outputs = outputs
        self._whole = sum(length(part.outputs) for part in parts) == outputs
        self._v = pack(torch.cat([part.vh for part in parts]).to(dtype))
        self._us = [
            _Outputs(
                pack((part.u.double() * part.s.double()).to(dtype)),
                slice(part.columns.start - start, part.columns.stop - start),
                part.outputs,
            )
            for part in parts
        ]

    def __call__(self, x: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute the outputs of a batch.

        Args:
            x: [T, n].
            rows: The ``columns`` of each token's z: [T, sum of r], any strides.
            bias: [m].

        Returns:
            [T, m], contiguous.
        """
        h = self._v(x).mul_(rows)
        if self._whole and len(self._us) == 1:
            y = self._us[0].apply(h)
            return y if bias is None else y.add_(bias)
        y = x.new_empty(x.shape[0], self._outputs) if self._whole else self._plain(x, bias)
        for u in self._us:
            own = y[:, u.outputs]
            own.copy_(u.apply(h[:, u.directions]))
            if bias is not None:
                own.add_(bias[u.outputs])
        return y


@dataclass(frozen=True, eq=False)
class _Outputs:
    """U s of one part, which maps its columns of h to its columns of y."""

    apply: Callable[[Tensor], Tensor]
    directions: slice
    outputs: slice


class FactoredForm:
    """All linears exact: W where all rows of a step are the base's, otherwise factors with each row's z."""

    def __init__(self, pack: Pack = unpacked) -> None:
        self._pack = pack
        self._step: StepRows | None = None

    def linear(self, plain: Linear, weight: Tensor, parts: Sequence[PartFactors]) -> StepLinear:
        """As ``Form.linear``."""
        factored = FactoredLinear(plain, len(weight), parts, weight.dtype, self._pack)

        def compute(x: Tensor, bias: Tensor | None) -> Tensor:
            step = self.step
            return factored(x, step.of(factored.columns), bias) if step.mixed else plain(x, bias)

        return compute

    def open(self, rows: int, tokens: int, size: int, device: torch.device) -> StepRows:
        """As ``Form.open``."""
        self._step = StepRows(StepBuffers(rows, size, tokens, device))
        return self._step

    @property
    def step(self) -> StepRows:
        """The step under way."""
        assert self._step is not None, "the form is not open"
        return self._step
