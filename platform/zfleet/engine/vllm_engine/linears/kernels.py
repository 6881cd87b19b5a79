"""The exact SVF linear of an engine whose own linears are packed and fused: forward only, a z per token.

An engine may fuse matrices that share an input into one linear (q, k and v; gate and up). Each part keeps its own
SVD and writes its own columns of the fused output. Rows are the z of the batch's tokens, gathered by the caller, who
knows the table. Factors are packed as the engine packs its weights, by the engine itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Linear = Callable[[Tensor, Tensor | None], Tensor]
"""x [T, n] and a bias [m] or None to y [T, m]: a linear of the engine, its weight packed inside."""

Pack = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""A weight [m, n] that stays as long as the engine does, to the fastest way from x [T, n] to x W^T [T, m]."""


@dataclass(frozen=True, eq=False)
class PartFactors:
    """One matrix of a fused linear, as this rank holds it.

    Attributes:
        name: Its module path in the base.
        u: [m, r].
        s: [r].
        vh: [r, n].
        columns: Where its r values lie in a flat z.
        outputs: Its m columns of the fused linear's y.
    """

    name: str
    u: Tensor
    s: Tensor
    vh: Tensor
    columns: slice
    outputs: slice


def unpacked(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """As ``Pack``, where an engine packs nothing."""
    return lambda x: torch.nn.functional.linear(x, weight)


class FactoredLinear:
    """y = ((x V) * z) (U s)^T + b: exact for every z.

    Attributes:
        columns: Where the parts' values lie in a flat z, together.
    """

    def __init__(
        self, plain: Linear, outputs: int, parts: Sequence[PartFactors], dtype: torch.dtype, pack: Pack = unpacked
    ) -> None:
        """Prepare the factors.

        Args:
            plain: The engine's own linear, which gives the outputs of parts that have no factors.
            outputs: m, the outputs of the fused linear on this rank.
            parts: Those that have factors; their columns must be neighbours in a flat z.
            dtype: What the engine computes in.
            pack: The engine's own.

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
        """The outputs of a batch.

        Args:
            x: [T, n].
            rows: z of each token, ``columns`` of it: [T, sum of r], any strides.
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
    """U s of one part: from its columns of h to its columns of y."""

    apply: Callable[[Tensor], Tensor]
    directions: slice
    outputs: slice


def neighbours(parts: Sequence[PartFactors]) -> list[PartFactors]:
    """The parts in the order of a flat z."""
    ordered = sorted(parts, key=lambda part: part.columns.start)
    for before, after in pairwise(ordered):
        if before.columns.stop != after.columns.start:
            raise ValueError(f"{before.name} and {after.name} are no neighbours in a flat z")
    if not ordered:
        raise ValueError("a layer without parts needs no SVF linear")
    return ordered


def length(columns: slice) -> int:
    return int(columns.stop - columns.start)
