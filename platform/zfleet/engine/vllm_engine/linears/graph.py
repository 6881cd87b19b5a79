"""Form ``factored`` as one operator, for engines that compile their model and replay CUDA graphs.

The table of rows and the row of each token lie in buffers that never move: a step changes their contents, and the
compiled or captured graph stays valid. Nothing branches on data, so that torch.compile keeps one graph, and a graph
captured for T tokens serves every mixture of z. Tables are float32 whatever the model's dtype: near 1 bfloat16 has
steps of 1/128, as large as the changes of an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zfleet.engine.vllm_engine.linears.factored import FactoredForm
from zfleet.engine.vllm_engine.linears.parts import Linear, PartFactors, length, neighbours
from zfleet.engine.vllm_engine.linears.step_rows import StepBuffers, StepLinear, StepRows


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
    bias: Tensor | None,
) -> None:
    """Write each part's ((x V) * z) (U s)^T into its columns of y.

    Args:
        y: [T, m]; written in place.
        x: [T, n].
        v: V of all parts, one under the other: [sum of r, n].
        us: U s of each part, transposed: [r, m of the part].
        starts: First column of y of each part.
        table: [rows, C] float32.
        index: Row of each token: [max tokens, at least T] int64.
        column: First column of the parts' z in a row.
        bias: [m].
    """
    rows = table[:, column : column + v.shape[0]].index_select(0, index[: x.shape[0]])
    h = torch.nn.functional.linear(x, v).mul_(rows)
    offset = 0
    for u, start in zip(us, starts, strict=True):
        part = h[:, offset : offset + u.shape[0]]
        offset += u.shape[0]
        out = y[:, start : start + u.shape[1]]
        if bias is None:
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
    bias: Tensor | None,
) -> None:
    return None


class GraphLinear(nn.Module):
    """One linear of the engine, fused parts included, that reads its rows from ``StepBuffers``."""

    v: Tensor

    def __init__(
        self, plain: Linear, outputs: int, parts: Sequence[PartFactors], step: StepBuffers, dtype: torch.dtype
    ) -> None:
        """Prepare the factors.

        Args:
            plain: The engine's own linear, which computes the outputs of parts without factors.
            outputs: m, the outputs of the linear.
            parts: The parts that have factors; their columns must be neighbours in a flat z.
            step: The buffers that hold the rows.
            dtype: The engine's dtype.

        Raises:
            ValueError: No parts, or columns that are not neighbours.
        """
        super().__init__()
        parts = neighbours(parts)
        self._plain, self._outputs, self._step = plain, outputs, step
        self._column = parts[0].columns.start
        self._whole = sum(length(part.outputs) for part in parts) == outputs
        self._starts = [part.outputs.start for part in parts]
        v = torch.cat([part.vh for part in parts])
        self.register_buffer("v", v.to(dtype).contiguous(), persistent=False)
        us = [part.u.double() * part.s.double() for part in parts]
        self._us = nn.ParameterList(nn.Parameter(u.t().to(dtype).contiguous(), requires_grad=False) for u in us)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map x [T, n] to [T, m], token t under row ``index[t]``."""
        y = x.new_empty(x.shape[0], self._outputs) if self._whole else self._plain(x, bias)
        step = self._step
        torch.ops.zfleet.svf_into(
            y, x, self.v, list(self._us), self._starts, step.table, step.index, self._column, bias
        )
        return y


class GraphForm(FactoredForm):
    """All linears exact and without branches: for models that are compiled or captured as graphs."""

    def __init__(self) -> None:
        super().__init__()
        self._build: list[Callable[[StepBuffers], None]] = []

    def linear(self, plain: Linear, weight: Tensor, parts: Sequence[PartFactors]) -> StepLinear:
        """As ``Form.linear``."""
        outputs, dtype = len(weight), weight.dtype
        built: list[GraphLinear] = []
        self._build.append(lambda buffers: built.append(GraphLinear(plain, outputs, parts, buffers, dtype)))
        return lambda x, bias: built[0](x, bias)

    def open(self, rows: int, tokens: int, size: int, device: torch.device) -> StepRows:
        """As ``Form.open``."""
        buffers = StepBuffers(rows, size, tokens, device)
        for build in self._build:
            build(buffers)
        self._step = StepRows(buffers)
        return self._step
