"""The SVF linear as one operator, for engines that compile their model and replay CUDA graphs.

A table of rows and the row of each token lie in buffers that never move: a step changes their contents, and what was
compiled or captured stays as it is. Nothing branches on data, so that torch.compile keeps one graph, and a graph
captured for T tokens serves every mixture of z. Tables are float32 whatever the model computes in: near 1 bfloat16
has steps of 1/128, as large as what an expert changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zfleet.engine.vllm_engine.linears.kernels import Linear, PartFactors, length, neighbours


@torch.library.custom_op("zfleet::svf_into", mutates_args=("y",))
def svf_into(
    y: Tensor,
    x: Tensor,
    v: Tensor,
    us: list[Tensor],
    starts: list[int],
    table: Tensor,
    index: Tensor,
    column: int,
    add: bool,
    bias: Tensor | None,
) -> None:
    """Each part's ((x V) * row) U^T into its columns of y.

    Args:
        y: [T, m]; written in place.
        x: [T, n].
        v: V of all parts, one under the other: [sum of r, n].
        us: U of each part, transposed (with s where the rows are z): [r, m of the part].
        starts: First column of y of each part.
        table: [rows, C] float32.
        index: Row of each token: [max tokens, at least T] int64.
        column: Where the parts' values start in a row.
        add: Add to y (rank k) instead of writing it (exact).
        bias: [m], for what is written.
    """
    rows = table[:, column : column + v.shape[0]].index_select(0, index[: x.shape[0]])
    h = torch.nn.functional.linear(x, v).mul_(rows)
    left = 0
    for u, start in zip(us, starts, strict=True):
        part = h[:, left : left + u.shape[0]]
        left += u.shape[0]
        out = y[:, start : start + u.shape[1]]
        if add:
            out.addmm_(part, u)
        elif bias is None:
            torch.mm(part, u, out=out)
        else:
            torch.addmm(bias[start : start + u.shape[1]], part, u, out=out)


@svf_into.register_fake
def _(
    y: Tensor,
    x: Tensor,
    v: Tensor,
    us: list[Tensor],
    starts: list[int],
    table: Tensor,
    index: Tensor,
    column: int,
    add: bool,
    bias: Tensor | None,
) -> None:
    return None


class StepBuffers(nn.Module):
    """What a step sets, in place, before the graph runs.

    Attributes:
        table: [rows, C] float32: z, or d for the rank-k form.
        index: Row of each token: [tokens] int64. Tokens beyond the step's may hold anything in range.
    """

    table: Tensor
    index: Tensor

    def __init__(self, rows: int, columns: int, tokens: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(rows, columns, device=device), persistent=False)
        self.register_buffer("index", torch.zeros(tokens, dtype=torch.int64, device=device), persistent=False)


class GraphLinear(nn.Module):
    """One linear of the engine, fused parts included, that reads its rows from ``StepBuffers``."""

    v: Tensor

    def __init__(
        self,
        plain: Linear,
        outputs: int,
        parts: Sequence[PartFactors],
        step: StepBuffers,
        dtype: torch.dtype,
        kept: Sequence[Tensor] | None = None,
        column: int | None = None,
    ) -> None:
        """Prepare the factors.

        Args:
            plain: The engine's own linear: what the rank-k form adds to, and parts without factors use.
            outputs: m, the outputs of the linear.
            parts: Those that have factors.
            step: Where rows come from.
            dtype: What the engine computes in.
            kept: Rank-k form: the directions of each part, as many indices as wanted. None is the exact form.
            column: Rank-k form: where this linear's d start in a row.

        Raises:
            ValueError: No parts, or exact parts that are no neighbours in a flat z.
        """
        super().__init__()
        self._plain, self._outputs, self._step = plain, outputs, step
        self._add = kept is not None
        if kept is None:
            parts = neighbours(parts)
            kept = [torch.arange(part.s.numel(), device=part.s.device) for part in parts]
            column = parts[0].columns.start
            us = [part.u.double() * part.s.double() for part in parts]
        else:
            us = [part.u[:, chosen] for part, chosen in zip(parts, kept, strict=True)]
        assert column is not None
        self._column = column
        self._whole = sum(length(part.outputs) for part in parts) == outputs
        self._starts = [part.outputs.start for part in parts]
        v = torch.cat([part.vh[chosen] for part, chosen in zip(parts, kept, strict=True)])
        self.register_buffer("v", v.to(dtype).contiguous(), persistent=False)
        self._us = nn.ParameterList(nn.Parameter(u.t().to(dtype).contiguous(), requires_grad=False) for u in us)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[T, n] to [T, m], token t under row ``index[t]``."""
        if self._add:
            y = self._plain(x, bias)
        else:
            y = x.new_empty(x.shape[0], self._outputs) if self._whole else self._plain(x, bias)
        us, written = list(self._us), None if self._add else bias
        step = self._step
        torch.ops.zfleet.svf_into(
            y, x, self.v, us, self._starts, step.table, step.index, self._column, self._add, written
        )
        return y
