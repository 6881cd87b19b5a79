"""The forms in which an engine computes its SVF linears: what a row of the table holds, and what is done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from zfleet.engine.vllm_engine.linears.delta import DeltaLinear
from zfleet.engine.vllm_engine.linears.graph import GraphLinear, StepBuffers
from zfleet.engine.vllm_engine.linears.kernels import FactoredLinear, Linear, Pack, PartFactors, length, unpacked
from zfleet.engine.vllm_engine.linears.merged import MergedLinear
from zfleet.engine.vllm_engine.linears.step_rows import StepRows
from zfleet.svf.directions import choose_directions, truncation

StepLinear = Callable[[Tensor, Tensor | None], Tensor]
"""x [T, n] and a bias to y [T, m], token t under the row that the step says."""


class Form(Protocol):
    """All linears of one engine, in one form."""

    def linear(self, plain: Linear, weight: Tensor, parts: Sequence[PartFactors]) -> StepLinear:
        """One more linear; ``plain`` computes it with W [m, n], which is not kept."""

    def open(self, rows: int, tokens: int, size: int, device: torch.device) -> StepRows:
        """The table, once all linears are there."""

    def refresh(self) -> None:
        """Called before a step when a z was made known."""

    def left_out(self) -> dict[str, float]:
        """{digest: ||W'' - W'|| / ||W' - W||} over all matrices, Frobenius: what this form leaves out of each z."""


class FactoredForm:
    """y = ((x V) * z) (U s)^T: exact. With ``merging``, W' of a z that whole steps share."""

    def __init__(self, pack: Pack = unpacked, merging: bool = False) -> None:
        self._pack = pack
        self._merging = merging
        self._step: StepRows | None = None

    def linear(self, plain: Linear, weight: Tensor, parts: Sequence[PartFactors]) -> StepLinear:
        """As ``Form.linear``."""
        outputs, dtype = len(weight), weight.dtype
        factored = FactoredLinear(plain, outputs, parts, dtype, self._pack)
        whole = sum(length(part.outputs) for part in parts) == outputs
        merged = MergedLinear(parts, outputs, dtype) if self._merging and whole else None

        def compute(x: Tensor, bias: Tensor | None) -> Tensor:
            step = self._step
            assert step is not None
            if not step.mixed:
                return plain(x, bias)
            if merged is not None and step.alone and merged.ready(step.alone, step.known[step.alone], len(x)):
                return merged(x, bias)
            return factored(x, step.of(factored.columns), bias)

        return compute

    def open(self, rows: int, tokens: int, size: int, device: torch.device) -> StepRows:
        """As ``Form.open``."""
        self._step = StepRows(StepBuffers(rows, size, tokens, device), lambda z: z, torch.ones(size))
        return self._step

    def refresh(self) -> None:
        """Nothing depends on which z are known."""

    def left_out(self) -> dict[str, float]:
        """As ``Form.left_out``: nothing."""
        assert self._step is not None
        return dict.fromkeys(self._step.known, 0.0)


class GraphForm(FactoredForm):
    """The exact form as one operator without branches: for models that are compiled or captured as graphs."""

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
        self._step = StepRows(buffers, lambda z: z, torch.ones(size))
        return self._step


class DeltaForm:
    """y = x W^T + ((x V_k) * d) U_k^T: k directions of each matrix, those that the known z change most."""

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

    def left_out(self) -> dict[str, float]:
        """As ``Form.left_out``, in closed form."""
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


def form_for(settings: Mapping[str, object], device: torch.device, pack: Pack) -> Form:
    """The form that an engine's settings name, on its device; ``pack`` is the engine's own."""
    if device.type == "cuda":
        return GraphForm()
    if settings["form"] == "delta":
        return DeltaForm(int(str(settings["rank"])))
    return FactoredForm(pack, merging=settings["form"] == "dense")
