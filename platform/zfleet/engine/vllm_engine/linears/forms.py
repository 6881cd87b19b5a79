"""The forms in which an engine computes its SVF linears: what each must do, and which one a spec names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from zfleet.engine.vllm_engine.linears.delta_form import DeltaForm
from zfleet.engine.vllm_engine.linears.factored import FactoredForm
from zfleet.engine.vllm_engine.linears.graph import GraphForm
from zfleet.engine.vllm_engine.linears.merged import MergedForm
from zfleet.engine.vllm_engine.linears.parts import Linear, Pack, PartFactors
from zfleet.engine.vllm_engine.linears.step_rows import StepLinear, StepRows


class Form(Protocol):
    """All linears of one engine, in one form: what a row of the table holds, and how it is used."""

    def linear(self, plain: Linear, weight: Tensor, parts: Sequence[PartFactors]) -> StepLinear:
        """Add a linear. ``plain`` computes it with W [m, n], which is not kept."""

    def open(self, rows: int, tokens: int, size: int, device: torch.device) -> StepRows:
        """Make the table, once all linears are there.

        Args:
            rows: Rows of the table.
            tokens: The most tokens of one step.
            size: R, the numbers in one z.
            device: Where the engine computes.
        """


def form_for(settings: Mapping[str, object], device: torch.device, pack: Pack) -> Form:
    """Make the form that an engine's settings name, on its device; ``pack`` is the engine's own."""
    if device.type == "cuda":
        return GraphForm()
    if settings["form"] == "delta":
        return DeltaForm(pack)
    return MergedForm(pack) if settings["form"] == "dense" else FactoredForm(pack)
