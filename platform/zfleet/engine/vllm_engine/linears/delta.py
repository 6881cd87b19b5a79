"""Form ``delta``: the engine's own linear, plus a change in k directions of each matrix.

The layout was chosen by measurement, with AVX-512, one and two threads, float32, 512 to 4096 wide:

- torch's matmul is fastest with a weight as [inputs, outputs] and a gap behind each line: lines a multiple of 4 KiB
  apart would compete for the same places in the cache.
- Between 33 and 128 tokens, W as two halves of its outputs, multiplied as a batch, takes 10 to 20 % less time than
  vLLM's packed W: each thread has its own half and waits for no other, and adding the change costs less. With fewer or
  more tokens the packed W is as fast or up to 1.7 times faster. So the linear holds a second W, in halves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.engine.vllm_engine.linears.parts import Linear, PartFactors, length
from zfleet.engine.vllm_engine.linears.step_rows import StepBuffers, StepLinear, StepRows
from zfleet.svf.directions import changes, choose_directions, truncation

_HALVED = range(33, 129)
"""Numbers of tokens for which W in halves is faster."""

_HALVED_THREADS = 2
"""The most threads for which that was measured."""


class DeltaLinear:
    """y = x W^T + b + ((x V_k) * d) U_k^T with d = s * (z - 1): the engine's own linear plus a rank-k change.

    z = 1 gives d = 0, the engine's own result. The first k directions are used until ``set_directions`` sets others.

    Attributes:
        width: Numbers in a row: the sum over parts of min(k, r).
    """

    def __init__(self, plain: Linear, weight: Tensor, parts: Sequence[PartFactors], k: int) -> None:
        """Make room for k directions of each part.

        Args:
            plain: The engine's own linear.
            weight: W [m, n], in the engine's dtype; not kept.
            parts: The parts that have factors.
            k: Directions of each part; all r if r is smaller.
        """
        self._plain = plain
        self._parts = list(parts)
        ranks = [min(k, part.s.numel()) for part in parts]
        self.width = sum(ranks)
        ends = [sum(ranks[: i + 1]) for i in range(len(ranks))]
        self._columns = [slice(end - rank, end) for rank, end in zip(ranks, ends, strict=True)]
        self._v = spaced(weight.new_empty(weight.shape[1], self.width))
        self._u = [
            _Piece(spaced(weight.new_empty(length(own), length(part.outputs))), own, part.outputs)
            for part, own in zip(parts, self._columns, strict=True)
        ]
        self._halves = _halves(weight, parts, self._columns)
        self._indices: list[Tensor] = []
        device = weight.device
        self.set_directions({p.name: torch.arange(r, device=device) for p, r in zip(parts, ranks, strict=True)})

    def set_directions(self, chosen: Mapping[str, Tensor]) -> None:
        """Change the directions in place. Rows must be computed again with ``rows_of``.

        Args:
            chosen: {part: indices [min(k, r)]}, as ``zfleet.svf.directions.choose_directions`` returns them.
        """
        self._indices = [chosen[part.name] for part in self._parts]
        for part, index, columns in zip(self._parts, self._indices, self._columns, strict=True):
            self._v[:, columns].copy_(part.vh[index].t())
            for piece in (*self._u, *(self._halves.pieces if self._halves else ())):
                piece.place(part.u[:, index].t(), columns, part.outputs)

    def rows_of(self, z: Tensor) -> Tensor:
        """Compute d of the chosen directions, in float64: flat z [E, R] to [E, width] float32."""
        d = [
            changes(z[:, part.columns][:, index], part.s[index])
            for part, index in zip(self._parts, self._indices, strict=True)
        ]
        return torch.cat(d, dim=1).float()

    def __call__(self, x: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute the outputs of a batch.

        Args:
            x: [T, n].
            rows: d of each token: [T, width], any strides.
            bias: [m].

        Returns:
            [T, m].
        """
        h = torch.mm(x, self._v).mul_(rows)
        if self._halves and x.shape[0] in _HALVED:
            y = self._halves(x, h)
            return y if bias is None else y.add_(bias)
        y = self._plain(x, bias)
        for piece in self._u:
            y[:, piece.outputs].addmm_(h[:, piece.directions], piece.u)
        return y


class DeltaForm:
    """All linears with k directions of each matrix: those that the known z change most."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._linears: list[DeltaLinear] = []
        self._parts: list[PartFactors] = []
        self._kept: dict[str, Tensor] = {}
        self._width = 0
        self._step: StepRows | None = None

    def linear(self, plain: Linear, weight: Tensor, parts: Sequence[PartFactors]) -> StepLinear:
        """As ``Form.linear``."""
        delta = DeltaLinear(plain, weight, parts, self._rank)
        columns = slice(self._width, self._width + delta.width)
        self._width = columns.stop
        self._linears.append(delta)
        self._parts.extend(parts)

        def compute(x: Tensor, bias: Tensor | None) -> Tensor:
            step = self._step
            assert step is not None
            return delta(x, step.of(columns), bias) if step.mixed else plain(x, bias)

        return compute

    def open(self, rows: int, tokens: int, size: int, device: torch.device) -> StepRows:
        """As ``Form.open``."""
        self._step = StepRows(StepBuffers(rows, self._width, tokens, device), self._encode, torch.ones(size))
        return self._step

    def refresh(self) -> None:
        """Choose the directions again."""
        assert self._step is not None
        z = self._z()
        if not len(z):
            return
        self._kept = {p.name: choose_directions(z[:, p.columns], p.s, self._rank) for p in self._parts}
        for delta in self._linears:
            delta.set_directions(self._kept)
        self._step.refill()

    def relative_errors(self) -> dict[str, float]:
        """As ``Form.relative_errors``, in closed form."""
        assert self._step is not None
        if not self._step.known:
            return {}
        self.refresh()
        z = self._z()
        dropped, whole = torch.zeros(len(z), dtype=torch.float64), torch.zeros(len(z), dtype=torch.float64)
        for part in self._parts:
            own = z[:, part.columns]
            dropped += truncation(own, part.s, self._kept[part.name]).absolute ** 2
            whole += truncation(own, part.s, torch.empty(0, dtype=torch.int64)).absolute ** 2
        shares = torch.where(whole > 0, (dropped / whole).sqrt(), torch.zeros_like(whole))
        return dict(zip(self._step.known, shares.tolist(), strict=True))

    def _z(self) -> Tensor:
        assert self._step is not None
        return torch.stack(list(self._step.known.values())) if self._step.known else torch.empty(0, 0)

    def _encode(self, z: Tensor) -> Tensor:
        return torch.cat([delta.rows_of(z.unsqueeze(0))[0] for delta in self._linears])


@dataclass(frozen=True, eq=False)
class _Piece:
    """The block of U_k [directions, outputs] between some columns of h and some columns of y."""

    u: Tensor
    directions: slice
    outputs: slice

    def place(self, u: Tensor, directions: slice, outputs: slice) -> None:
        """Copy the overlap with another block u [k, m] of U_k into this piece."""
        rows, columns = _common(directions, self.directions), _common(outputs, self.outputs)
        target = self.u[_from(rows, self.directions), _from(columns, self.outputs)]
        target.copy_(u[_from(rows, directions), _from(columns, outputs)])


@dataclass(frozen=True, eq=False)
class _Halves:
    """W and U_k, each as two halves of the outputs.

    Attributes:
        w: [2, n, m / 2].
        u: [2, directions of each half, m / 2].
        apart: Whether each half has its own directions; otherwise both have all.
        pieces: The blocks of U_k that ``u`` holds.
    """

    w: Tensor
    u: Tensor
    apart: bool
    pieces: list[_Piece]

    def __call__(self, x: Tensor, h: Tensor) -> Tensor:
        """Map x [T, n] and h [T, directions] to y [T, m], contiguous."""
        y = torch.bmm(x.expand(2, -1, -1), self.w)
        y.baddbmm_(h.unflatten(1, (2, -1)).transpose(0, 1) if self.apart else h.expand(2, -1, -1), self.u)
        return y.transpose(0, 1).flatten(1)


def _halves(weight: Tensor, parts: Sequence[PartFactors], columns: Sequence[slice]) -> _Halves | None:
    """Build the halves if they are faster here."""
    outputs = weight.shape[0]
    few = weight.device.type == "cpu" and torch.get_num_threads() <= _HALVED_THREADS
    if not few or weight.dtype != torch.float32 or outputs % 2:
        return None
    halves = [slice(0, outputs // 2), slice(outputs // 2, outputs)]
    apart = [part.outputs for part in parts] == halves and length(columns[0]) == length(columns[1])
    width = columns[-1].stop
    own = list(columns) if apart else [slice(0, width)] * 2
    u = spaced(weight.new_zeros(2, length(own[0]), outputs // 2))
    pieces = [_Piece(*piece) for piece in zip(u, own, halves, strict=True)]
    return _Halves(spaced(weight.unflatten(0, (2, -1)).transpose(1, 2)), u, apart, pieces)


def spaced(weight: Tensor) -> Tensor:
    """Copy [..., inputs, outputs] with a gap of 64 bytes behind each line."""
    gap = 64 // weight.element_size()
    room = weight.new_zeros(*weight.shape[:-1], weight.shape[-1] + gap)
    room[..., :-gap] = weight
    return room[..., :-gap]


def _common(a: slice, b: slice) -> slice:
    start = max(a.start, b.start)
    return slice(start, max(start, min(a.stop, b.stop)))


def _from(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)
