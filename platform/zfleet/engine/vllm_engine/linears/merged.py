"""Form ``dense``: W' = U diag(s * z) Vh merged where all rows of a step share one z and merging pays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zfleet.engine.vllm_engine.linears.factored import FactoredForm
from zfleet.engine.vllm_engine.linears.parts import Linear, PartFactors, length
from zfleet.engine.vllm_engine.linears.step_rows import StepLinear


class MergedLinear:
    """W' [m, n] of a z that whole steps have shared for long enough.

    Nobody knows how long steps will go on to share a z. So W' is merged once the factored form has cost as much more
    than a merged one as merging costs: at most twice the cost of the best choice in hindsight (the ski-rental rule:
    Karlin, Manasse, Rudolph and Sleator, 1988). Costs are counted in multiplications.
    """

    def __init__(self, parts: Sequence[PartFactors], outputs: int, dtype: torch.dtype) -> None:
        """Prepare to count; W' is made later.

        Args:
            parts: All matrices of the linear.
            outputs: m, the outputs of the linear.
            dtype: The engine's dtype.
        """
        self._parts = parts
        self._outputs = outputs
        self._dtype = dtype
        self._weight: Tensor | None = None
        self._digest: str | None = None
        self._merged = False
        self._spent = 0
        sizes = [(length(part.outputs), part.s.numel(), part.vh.shape[1]) for part in parts]
        self._merge_cost = sum(m * r * n for m, r, n in sizes)
        self._excess = sum(r * (m + n) - m * n for m, r, n in sizes)

    def ready(self, digest: str, z: Tensor, tokens: int) -> bool:
        """Say whether W' of this z is there for the next step; merge it once that pays.

        Args:
            digest: The z that all rows share.
            z: [R] float32.
            tokens: Rows of the step.
        """
        if digest != self._digest:
            self._digest, self._merged, self._spent = digest, False, 0
        if not self._merged:
            self._spent += tokens * self._excess
            if self._spent >= self._merge_cost:
                self._merge(z)
        return self._merged

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [T, n] to [T, m]. Call it only after ``ready`` returned True."""
        assert self._weight is not None
        return torch.nn.functional.linear(x, self._weight, bias)

    def _merge(self, z: Tensor) -> None:
        first = self._parts[0].vh
        if self._weight is None:
            self._weight = first.new_empty(self._outputs, first.shape[1], dtype=self._dtype)
        for part in self._parts:
            scaled = part.u * (part.s * z[part.columns].to(part.s.device))
            self._weight[part.outputs] = (scaled @ part.vh).to(self._dtype)
        self._merged = True


class MergedForm(FactoredForm):
    """Form ``factored``, with W' of a z that whole steps share."""

    def linear(self, plain: Linear, weight: Tensor, parts: Sequence[PartFactors]) -> StepLinear:
        """As ``Form.linear``."""
        outputs = len(weight)
        factored = super().linear(plain, weight, parts)
        if sum(length(part.outputs) for part in parts) != outputs:
            return factored
        merged = MergedLinear(parts, outputs, weight.dtype)

        def compute(x: Tensor, bias: Tensor | None) -> Tensor:
            step = self.step
            if step.alone and merged.ready(step.alone, step.known[step.alone], len(x)):
                return merged(x, bias)
            return factored(x, bias)

        return compute
