"""One linear in form ``delta``: the engine's own result, changed in k directions of each matrix.

W' = U diag(z s) Vh, and U has orthonormal columns, so that W' = (I + U_k diag(z - 1) U_k^T) W for a z that is 1 in all
but k directions. A matrix with no more outputs than inputs is changed so: from its own outputs, in 2 k m
multiplications for a token. With more outputs than inputs it takes fewer from the inputs, k (n + m):
W' = W + U_k diag(s (z - 1)) V_k^T.

W itself is always multiplied by the engine. What that costs, this form costs as well on every processor, whatever
library the engine uses. Only the small products use torch's matmul: MKL, whose speed beside oneDNN's differs between
processors by a factor of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.engine.vllm_engine.linears.parts import Linear, PartFactors, length


class DeltaLinear:
    """The engine's own linear, and the change of each part in its directions.

    z = 1 changes nothing.

    Attributes:
        width: Numbers in a row: the directions of all parts.
    """

    def __init__(
        self, plain: Linear, parts: Sequence[PartFactors], directions: Sequence[Tensor], dtype: torch.dtype
    ) -> None:
        """Prepare the directions.

        Args:
            plain: The engine's own linear.
            parts: The parts that have factors.
            directions: Of each part: indices [k] int64.
            dtype: The engine's dtype.
        """
        self._plain = plain
        self._changes: list[_Change] = []
        self.width = 0
        for part, chosen in zip(parts, directions, strict=True):
            if len(chosen):
                columns = slice(self.width, self.width + len(chosen))
                self._changes.append(_Change.of(part, chosen, columns, dtype))
                self.width = columns.stop

    def __call__(self, x: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute the outputs of a batch.

        Args:
            x: [T, n].
            rows: z - 1 of each token in the directions of all parts: [T, width], any strides.
            bias: [m].

        Returns:
            [T, m].
        """
        y = self._plain(x, None)
        h = y.new_empty(len(y), self.width)
        for change in self._changes:
            torch.mm(y[:, change.outputs] if change.of_outputs else x, change.into, out=h[:, change.columns])
        h.mul_(rows)
        for change in self._changes:
            y[:, change.outputs].addmm_(h[:, change.columns], change.back)
        return y if bias is None else y.add_(bias)


def cost(part: PartFactors, k: int) -> int:
    """Count the multiplications for a token that change a part in k directions."""
    m, n = length(part.outputs), part.vh.shape[1]
    return k * (2 * m if _of_outputs(part) else m + n)


def _of_outputs(part: PartFactors) -> bool:
    return part.all_outputs and length(part.outputs) <= part.vh.shape[1]


@dataclass(frozen=True, eq=False)
class _Change:
    """The change of one part.

    Attributes:
        into: Maps its outputs, or the linear's inputs, to the directions: [m or n, k].
        back: Maps the directions to its outputs: [k, m].
        of_outputs: Whether it is computed from its outputs.
        columns: Its columns in a row.
        outputs: Its columns in y.
    """

    into: Tensor
    back: Tensor
    of_outputs: bool
    columns: slice
    outputs: slice

    @classmethod
    def of(cls, part: PartFactors, chosen: Tensor, columns: slice, dtype: torch.dtype) -> _Change:
        if _of_outputs(part):
            u = part.u[:, chosen].to(dtype)
            return cls(u, u.t(), True, columns, part.outputs)
        us = (part.u[:, chosen].double() * part.s[chosen].double()).t().to(dtype)
        return cls(part.vh[chosen].t().contiguous().to(dtype), spaced(us), False, columns, part.outputs)


def spaced(weight: Tensor) -> Tensor:
    """Copy [inputs, outputs] with a gap of 64 bytes behind each line.

    Lines a multiple of 4 KiB apart would compete for the same places in the cache.
    """
    gap = 64 // weight.element_size()
    room = weight.new_zeros(weight.shape[0], weight.shape[1] + gap)
    room[:, :-gap] = weight
    return room[:, :-gap]
