"""What people do without an engine that knows adapters: PEFT's mixed batches, and merging at each switch."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hetero.adapters import write_adapter
from hetero.base import base_spec
from hetero.client import Ask, Load, Sample, Side
from hetero.fleet import random_experts
from hetero.settings import LORA_RANK, Settings
from zfleet.errors import EngineError
from zfleet.models.base import Base, load_base
from zfleet.models.bundle import pack_base
from zfleet.svf.factors import MatrixFactors
from zfleet.svf.zvector import ZVector

_EXPERTS = 64


class HuggingFace(Side):
    """A model in this process that generates batch by batch; its tokens are not timed one by one."""

    streams = False
    processes = (os.getpid(),)

    def __init__(self, model: Any) -> None:
        """``model`` is a Hugging Face model, or PEFT's wrapper around one."""
        self._model = model

    @abstractmethod
    def batch(self, asks: Sequence[Ask], load: Load) -> None:
        """Answer up to ``load.concurrency`` requests."""

    async def sample(self, asks: Sequence[Ask], load: Load, stream: bool) -> Sample:
        """Batches of ``load.concurrency`` requests, one after the other."""

        def work() -> float:
            began = time.perf_counter()
            for start in range(0, len(asks), load.concurrency):
                self.batch(asks[start : start + load.concurrency], load)
            return time.perf_counter() - began

        return Sample(len(asks) * load.answer_tokens, await asyncio.to_thread(work), (), ())

    async def close(self) -> None:
        """Nothing runs between samples."""

    def generate(self, asks: Sequence[Ask], load: Load, **options: Any) -> None:
        """Greedy answers of equal length.

        Raises:
            RuntimeError: An answer is not as long as asked for.
        """
        ids = torch.tensor([ask.prompt for ask in asks], device=self._model.device)
        answers = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=load.answer_tokens,
            min_new_tokens=load.answer_tokens,
            **options,
        )
        got = answers.shape[1] - ids.shape[1]
        if got != load.answer_tokens:
            raise RuntimeError(f"answers have {got} tokens, asked for were {load.answer_tokens}")


class PeftMixed(HuggingFace):
    """PEFT's mixed batches: a LoRA adapter per row."""

    def batch(self, asks: Sequence[Ask], load: Load) -> None:
        """All rows at once, each with its adapter's name."""
        self.generate(asks, load, adapter_names=[_name(ask.expert) for ask in asks])


class MergedAtSwitch(HuggingFace):
    """One dense model, an expert's weights written into it whenever the expert changes."""

    def __init__(self, base: Base, factors: Mapping[str, MatrixFactors], experts: Sequence[ZVector]) -> None:
        super().__init__(base.model)
        self._factors = factors
        self._experts = experts
        # Copies of its own: the base's weights are maps of files, which cannot be written to.
        for name in factors:
            linear = base.model.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
        self._weights: dict[str, Tensor] = {name: base.model.get_parameter(f"{name}.weight") for name in factors}

    def batch(self, asks: Sequence[Ask], load: Load) -> None:
        """Rows of the same expert together, so that there is one switch per expert and batch."""
        groups: dict[int, list[Ask]] = {}
        for ask in asks:
            if ask.expert is None:
                raise ValueError("base requests need no merging: measure them on plain vLLM")
            groups.setdefault(ask.expert, []).append(ask)
        for expert, group in groups.items():
            self._switch(self._experts[expert])
            self.generate(group, load)

    @torch.inference_mode()
    def _switch(self, z: ZVector) -> None:
        for name, weight in self._weights.items():
            matrix = self._factors[name]
            weight.copy_((matrix.u * (matrix.s * z.values[name])) @ matrix.vh)


async def open_peft(settings: Settings) -> PeftMixed:
    """A PEFT model with all adapters loaded.

    Raises:
        EngineError: PEFT is not installed.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise EngineError("--also peft needs the package peft", "pip install peft, or leave it out") from error
    base = load_base(settings.folder, device=settings.shape.device, dtype=getattr(torch, settings.shape.dtype))
    first = write_adapter(settings, 0, LORA_RANK)
    model = peft.PeftModel.from_pretrained(base.model, first, adapter_name=_name(0))
    for number in range(1, _EXPERTS):
        model.load_adapter(write_adapter(settings, number, LORA_RANK), adapter_name=_name(number))
    model.train(False)
    return PeftMixed(model)


async def open_merge(settings: Settings) -> MergedAtSwitch:
    """The base as one dense model, with its factors beside it."""
    spec = base_spec(settings.shape, settings.folder, "all")
    bundle = await asyncio.to_thread(pack_base, spec)
    base = load_base(settings.folder, device=spec.device, dtype=getattr(torch, spec.dtype))
    return MergedAtSwitch(base, bundle.open().factors.matrices, random_experts(bundle, _EXPERTS))


def _name(adapter: int | None) -> str:
    return "__base__" if adapter is None else f"lora-{adapter}"
