"""The SVF linears of an engine whose own linears are packed and fused: forward only, a z per token.

An engine may fuse matrices that share an input into one linear (q, k and v; gate and up). Each part keeps its own
SVD and writes its own columns of the fused output. All V are stacked into one matmul; rows are the z of the
batch's tokens, gathered by the caller, who knows the table.

Measured on two cores with AVX-512: torch's matmul writes strided columns in place, the
engine's packed one cannot, and copying its result costs more than packing saves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Linear = Callable[[Tensor, Tensor | None], Tensor]
"""x [T, n] and a bias [m] or None to y [T, m]: a linear of the engine, its weight packed inside."""


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


def pack(weight: Tensor) -> Linear:
    """The fastest linear for a weight [m, n] that stays: vLLM's packed one where its library is loaded.

    vLLM never frees what it packs, so this is for weights that live as long as the engine.
    """
    if weight.device.type == "cpu" and hasattr(torch.ops._C, "create_onednn_mm_handler"):
        outputs = weight.shape[0]
        handler = torch.tensor(torch.ops._C.create_onednn_mm_handler(weight.t(), 32), dtype=torch.int64)

        def packed(x: Tensor, bias: Tensor | None) -> Tensor:
            y = x.new_empty(x.shape[0], outputs)
            torch.ops._C.onednn_mm(y, x, bias, handler)
            return y

        return packed
    return lambda x, bias: torch.nn.functional.linear(x, weight, bias)


class FactoredLinear:
    """y = ((x V) * z) (U s)^T + b: exact for every z.

    Attributes:
        columns: Where the parts' values lie in a flat z, together.
    """

    def __init__(self, plain: Linear, outputs: int, parts: Sequence[PartFactors], dtype: torch.dtype) -> None:
        """Prepare the factors.

        Args:
            plain: The engine's own linear, which gives the outputs of parts that have no factors.
            outputs: m, the outputs of the fused linear on this rank.
            parts: Those that have factors; their columns must be neighbours in a flat z.
            dtype: What the engine computes in.

        Raises:
            ValueError: No parts, or columns that are not neighbours.
        """
        parts = neighbours(parts)
        self.columns = slice(parts[0].columns.start, parts[-1].columns.stop)
        self._plain = plain
        self._outputs = outputs
        self._whole = sum(length(part.outputs) for part in parts) == outputs
        self._v = pack(torch.cat([part.vh for part in parts]).to(dtype).contiguous())
        scaled = [(part.u.double() * part.s.double()).to(dtype) for part in parts]
        self._alone = pack(scaled[0].contiguous()) if self._whole and len(parts) == 1 else None
        self._us = [] if self._alone else [us.t().contiguous() for us in scaled]
        start = self.columns.start
        self._pieces = [(slice(p.columns.start - start, p.columns.stop - start), p.outputs) for p in parts]

    def __call__(self, x: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """The outputs of a batch.

        Args:
            x: [T, n].
            rows: z of each token, ``columns`` of it: [T, sum of r], any strides.
            bias: [m].

        Returns:
            [T, m], contiguous.
        """
        h = self._v(x, None).mul_(rows)
        if self._alone is not None:
            return self._alone(h, bias)
        y = x.new_empty(x.shape[0], self._outputs) if self._whole else self._plain(x, bias)
        for us, (columns, outputs) in zip(self._us, self._pieces, strict=True):
            if bias is None:
                torch.mm(h[:, columns], us, out=y[:, outputs])
            else:
                torch.addmm(bias[outputs], h[:, columns], us, out=y[:, outputs])
        return y


class DeltaLinear:
    """y = x W^T + b + ((x V_k) * d) U_k^T with d = s * (z - 1): W as the engine has it, plus a rank-k change.

    z = 1 is d = 0, the engine's own result. Nothing is added until ``set_directions`` has chosen some.

    Attributes:
        width: Values of a row: the sum over parts of min(k, r).
    """

    def __init__(self, plain: Linear, parts: Sequence[PartFactors], k: int, dtype: torch.dtype) -> None:
        """Make room for k directions of each part.

        Args:
            plain: The engine's own linear.
            parts: Those that have factors.
            k: Directions of each part; all r when r is smaller.
            dtype: What the engine computes in.
        """
        self._plain = plain
        self._parts = list(parts)
        ranks = [min(k, part.s.numel()) for part in parts]
        self.width = sum(ranks)
        device = parts[0].vh.device
        self._indices = [torch.arange(rank, device=device) for rank in ranks]
        self._v = torch.empty(parts[0].vh.shape[1], self.width, dtype=dtype, device=device)
        self._u = [
            torch.empty(r, length(p.outputs), dtype=dtype, device=device) for p, r in zip(parts, ranks, strict=True)
        ]
        ends = [sum(ranks[: i + 1]) for i in range(len(ranks))]
        self._columns = [slice(end - rank, end) for rank, end in zip(ranks, ends, strict=True)]
        self.set_directions({part.name: index for part, index in zip(parts, self._indices, strict=True)})

    def set_directions(self, chosen: Mapping[str, Tensor]) -> None:
        """Use other directions, in place; rows must be computed again with ``rows_of``.

        Args:
            chosen: {part: indices [min(k, r)]}, as ``zfleet.svf.directions.choose_directions`` gives them.
        """
        for place, (part, columns) in enumerate(zip(self._parts, self._columns, strict=True)):
            index = chosen[part.name]
            self._indices[place] = index
            self._v[:, columns].copy_(part.vh[index].t())
            self._u[place].copy_(part.u[:, index].t())

    def rows_of(self, z: Tensor) -> Tensor:
        """d of the chosen directions, computed in float64: [E, R] flat z to [E, width] float32."""
        d = [
            part.s[index].double() * (z[:, part.columns][:, index].double() - 1.0)
            for part, index in zip(self._parts, self._indices, strict=True)
        ]
        return torch.cat(d, dim=1).float()

    def __call__(self, x: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """The outputs of a batch.

        Args:
            x: [T, n].
            rows: d of each token: [T, width], any strides.
            bias: [m].

        Returns:
            [T, m].
        """
        y = self._plain(x, bias)
        h = torch.mm(x, self._v).mul_(rows)
        for part, columns, u in zip(self._parts, self._columns, self._u, strict=True):
            y[:, part.outputs].addmm_(h[:, columns], u)
        return y


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
