"""zfleet's vLLM engine, with as many random experts as a run asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import torch

from hetero.base import base_spec
from hetero.client import Ask, Server
from hetero.processes import children
from hetero.settings import BATCH_TOKENS, CACHE_GIB, DELTA_RANK, Settings
from zfleet.config.specs import EngineSpec, VllmSpec
from zfleet.engine.contract import BASE_Z, GenerationRequest, SamplingParams
from zfleet.engine.vllm_engine.engine import VllmEngine
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.zvector import ZVector

_SPREAD = 0.1
"""Standard deviation of the experts' values around 1; what a step costs does not depend on it."""


class FleetVllm(Server):
    """The engine that the benchmark is about.

    Args:
        engine: The engine.
        experts: Digests by number.
        processes: Those that the engine started.
    """

    def __init__(self, engine: VllmEngine, experts: tuple[str, ...], processes: tuple[int, ...]) -> None:
        self._engine = engine
        self._experts = experts
        self.processes = processes

    async def answer(self, ask: Ask, tokens: int, stream: bool) -> AsyncIterator[int]:
        """Answer through the engine contract."""
        request = GenerationRequest(
            ask.prompt,
            SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True),
            z_digest=BASE_Z if ask.expert is None else self._experts[ask.expert],
            stream=stream,
        )
        async for chunk in self._engine.generate(request):
            yield len(chunk.token_ids)

    async def call(self, function: Callable[[Any], Any]) -> Any:
        """Past the engine's contract, which has no such thing."""
        # Declared for names of methods; what it hands on to vLLM may be a function as well.
        return await self._engine._core.call(cast(str, function))

    async def close(self) -> None:
        """End the engine's processes."""
        await self._engine.close()


async def open_fleet(settings: Settings, *, targets: str, experts: int, rows: int, delta: bool = False) -> FleetVllm:
    """An engine that knows ``experts`` experts and holds ``rows`` of them, the base's row not counted."""
    bundle = await asyncio.to_thread(pack_base, base_spec(settings.shape, settings.folder, targets))
    before = children()
    engine = await VllmEngine.open(
        bundle,
        EngineSpec(
            kind="vllm",
            slots=settings.load.concurrency,
            max_length=settings.max_length,
            z_rows=rows + 1,
            vllm=VllmSpec(
                form="delta" if delta else "factored",
                rank=DELTA_RANK,
                cache_gib=CACHE_GIB,
                batch_tokens=BATCH_TOKENS,
            ),
        ),
    )
    processes = tuple(sorted(children() - before))
    digests = [await engine.put_z(z) for z in await asyncio.to_thread(random_experts, bundle, experts)]
    return FleetVllm(engine, tuple(digests), processes)


def random_experts(bundle: BaseBundle, count: int) -> list[ZVector]:
    """``count`` experts with values drawn around 1, the same every time."""
    model = bundle.open()
    chance = torch.Generator().manual_seed(count)
    return [model.z_from_flat(1 + _SPREAD * torch.randn(model.layout.size, generator=chance)) for _ in range(count)]
