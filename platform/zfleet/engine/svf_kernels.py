"""The SVF linears of an engine whose own linears are packed and fused: forward only, a z per token.

An engine may fuse matrices that share an input into one linear (q, k and v; gate and up). Each part keeps its own
SVD and writes its own columns of the fused output. Rows are the z of the batch's tokens, gathered by the caller, who
knows the table.

What is chosen here was measured with AVX-512, one and two threads (float32, 512 to 4096 wide):

- torch's matmul wants the weight as [inputs, outputs], with a gap behind each line: lines a multiple of 4 KiB
  apart share their places in the cache. On one thread it then takes a fifth less time than vLLM's packed linear,
  on two a tenth more: its threads wait for each other.
- Parts of one shape run as one batched matmul, each thread a part of its own, so that two threads are as good as
  one. Only a contiguous result runs so; it is copied to the fused columns. For rank k that copy costs too much.
- vLLM's packed linear writes no strided columns and does not free what it packs. Parts of unlike shapes, and what
  changes with the directions, go through torch's matmul.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from zfleet.svf.directions import changes

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
    """The fastest linear for a weight [m, n] that stays as long as the engine does."""
    if weight.device.type != "cpu" or not hasattr(torch.ops._C, "create_onednn_mm_handler"):
        return lambda x, bias: torch.nn.functional.linear(x, weight, bias)
    if weight.dtype == torch.float32 and torch.get_num_threads() == 1:
        across = spaced(weight.t())
        return lambda x, bias: torch.mm(x, across) if bias is None else torch.addmm(bias, x, across)
    outputs = weight.shape[0]
    handler = torch.tensor(torch.ops._C.create_onednn_mm_handler(weight.t(), 32), dtype=torch.int64)

    def packed(x: Tensor, bias: Tensor | None) -> Tensor:
        y = x.new_empty(x.shape[0], outputs)
        torch.ops._C.onednn_mm(y, x, bias, handler)
        return y

    return packed


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
        vh = [part.vh.to(dtype) for part in parts]
        us = [(part.u.double() * part.s.double()).to(dtype) for part in parts]
        whole = sum(length(part.outputs) for part in parts) == outputs
        if whole and len(parts) == 1:
            self._compute = _one(pack(vh[0].contiguous()), pack(us[0].contiguous()))
        elif whole and alike(parts):
            self._compute = _batched(torch.stack([v.t() for v in vh]), torch.stack([u.t() for u in us]))
        else:
            start = self.columns.start
            inner = [slice(part.columns.start - start, part.columns.stop - start) for part in parts]
            outer = [part.outputs for part in parts]
            below = None if whole else plain
            v = pack(torch.cat(vh).contiguous())
            self._compute = _by_columns(below, outputs, v, [spaced(u.t()) for u in us], inner, outer)

    def __call__(self, x: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """The outputs of a batch.

        Args:
            x: [T, n].
            rows: z of each token, ``columns`` of it: [T, sum of r], any strides.
            bias: [m].

        Returns:
            [T, m], contiguous.
        """
        return self._compute(x, rows, bias)


Compute = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_BATCHED = 192
"""Tokens up to which parts of one shape are multiplied as a batch; beyond, the copy outweighs what that saves."""


def _one(v: Linear, us: Linear) -> Compute:
    """One matrix, alone in its linear."""
    return lambda x, rows, bias: us(v(x, None).mul_(rows), bias)


def _batched(v: Tensor, us: Tensor) -> Compute:
    """P matrices of one shape that make the whole linear: v [P, n, r], us [P, r, m]."""
    count, _, rank = v.shape
    v, us = spaced(v), spaced(us)

    def compute(x: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
        if x.shape[0] > _BATCHED:
            y = x.new_empty(x.shape[0], count * us.shape[2])
            for part, own in enumerate(y.tensor_split(count, dim=1)):
                torch.mm(torch.mm(x, v[part]).mul_(rows[:, part * rank : (part + 1) * rank]), us[part], out=own)
            return y if bias is None else y.add_(bias)
        h = torch.bmm(x.expand(count, -1, -1), v).mul_(rows.unflatten(1, (count, rank)).transpose(0, 1))
        y = torch.bmm(h, us).transpose(0, 1).contiguous().flatten(1)
        return y if bias is None else y.add_(bias)

    return compute


def _by_columns(
    plain: Linear | None, outputs: int, v: Linear, us: list[Tensor], inner: list[slice], outer: list[slice]
) -> Compute:
    """Matrices of any shapes, each into its columns; ``plain`` where some columns have no factors."""

    def compute(x: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
        h = v(x, None).mul_(rows)
        y = x.new_empty(x.shape[0], outputs) if plain is None else plain(x, bias)
        for u, columns, own in zip(us, inner, outer, strict=True):
            if bias is None:
                torch.mm(h[:, columns], u, out=y[:, own])
            else:
                torch.addmm(bias[own], h[:, columns], u, out=y[:, own])
        return y

    return compute


class DeltaLinear:
    """y = x W^T + b + ((x V_k) * d) U_k^T with d = s * (z - 1): W as the engine has it, plus a rank-k change.

    z = 1 is d = 0, the engine's own result. Until ``set_directions`` chooses others, the first k are used.

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
        first = parts[0].vh
        ends = [sum(ranks[: i + 1]) for i in range(len(ranks))]
        self._columns = [slice(end - rank, end) for rank, end in zip(ranks, ends, strict=True)]
        self._v = spaced(first.new_empty(first.shape[1], self.width, dtype=dtype))
        self._u = [
            spaced(first.new_empty(rank, length(part.outputs), dtype=dtype))
            for part, rank in zip(parts, ranks, strict=True)
        ]
        self._indices: list[Tensor] = []
        self.set_directions({p.name: torch.arange(r, device=first.device) for p, r in zip(parts, ranks, strict=True)})

    def set_directions(self, chosen: Mapping[str, Tensor]) -> None:
        """Use other directions, in place; rows must be computed again with ``rows_of``.

        Args:
            chosen: {part: indices [min(k, r)]}, as ``zfleet.svf.directions.choose_directions`` gives them.
        """
        self._indices = [chosen[part.name] for part in self._parts]
        for part, index, columns, u in zip(self._parts, self._indices, self._columns, self._u, strict=True):
            self._v[:, columns].copy_(part.vh[index].t())
            u.copy_(part.u[:, index].t())

    def rows_of(self, z: Tensor) -> Tensor:
        """d of the chosen directions, computed in float64: [E, R] flat z to [E, width] float32."""
        d = [
            changes(z[:, part.columns][:, index], part.s[index])
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


def spaced(weight: Tensor) -> Tensor:
    """The same [..., inputs, outputs], with a gap of 64 bytes behind each line."""
    gap = 64 // weight.element_size()
    room = weight.new_zeros(*weight.shape[:-1], weight.shape[-1] + gap)
    room[..., :-gap] = weight
    return room[..., :-gap]


def alike(parts: Sequence[PartFactors]) -> bool:
    """Whether parts have one shape and follow each other in the outputs."""
    return all(part.u.shape == parts[0].u.shape for part in parts) and all(
        before.outputs.stop == after.outputs.start for before, after in pairwise(parts)
    )


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
