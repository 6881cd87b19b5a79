"""zfleet's vLLM engine, with as many random experts as a run asks for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import torch

from hetero.base import base_spec
from hetero.client import Ask, Server
from hetero.processes import children
from hetero.settings import BATCH_TOKENS, CACHE_GIB, Settings
from zfleet.config.specs import DeltaSpec, EngineSpec, FormSpec, VllmSpec
from zfleet.engine.contract import BASE_Z, GenerationRequest, SamplingParams, collect
from zfleet.engine.vllm_engine.engine import VllmEngine
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.mixture import mix
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
        async for chunk in self._engine.generate(self._request(ask, tokens, stream)):
            yield len(chunk.token_ids)

    async def tokens(self, ask: Ask, tokens: int) -> tuple[int, ...]:
        """The tokens of an answer."""
        (completion,) = await collect(self._engine, self._request(ask, tokens, stream=False))
        return completion.token_ids

    def _request(self, ask: Ask, tokens: int, stream: bool) -> GenerationRequest:
        return GenerationRequest(
            ask.prompt,
            SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True),
            z_digest=BASE_Z if ask.expert is None else self._experts[ask.expert],
            stream=stream,
        )

    async def call(self, function: Callable[[Any], Any]) -> Any:
        """Past the engine's contract, which has no such thing."""
        # Declared for names of methods; what it hands on to vLLM may be a function as well.
        return await self._engine._core.call(cast(str, function))

    async def close(self) -> None:
        """End the engine's processes."""
        await self._engine.close()


async def open_fleet(
    settings: Settings, *, targets: str, experts: int, rows: int, delta: DeltaSpec | None = None
) -> FleetVllm:
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
                form=FormSpec() if delta is None else FormSpec(delta=delta),
                cache_gib=CACHE_GIB,
                batch_tokens=BATCH_TOKENS,
            ),
        ),
    )
    processes = tuple(sorted(children() - before))
    digests = [await engine.put_z(z) for z in await asyncio.to_thread(experts_of, settings, bundle, experts)]
    await engine.choose_directions(digests)
    return FleetVllm(engine, tuple(digests), processes)


def experts_of(settings: Settings, bundle: BaseBundle, count: int) -> list[ZVector]:
    """The experts of the run: the given ones and their mixtures, or random ones."""
    return given_experts(settings.experts, count) if settings.experts else random_experts(bundle, count)


def given_experts(experts: Sequence[ZVector], count: int) -> list[ZVector]:
    """``count`` experts: those given, then mixtures of them with alphas drawn from [0, 1] that sum to 1."""
    chance = random.Random(count)
    made = list(experts[:count])
    while len(made) < count:
        alphas = [chance.random() for _ in experts]
        made.append(mix(experts, [alpha / sum(alphas) for alpha in alphas]))
    return made


def random_experts(bundle: BaseBundle, count: int) -> list[ZVector]:
    """``count`` experts with values drawn around 1, the same every time."""
    model = bundle.open()
    chance = torch.Generator().manual_seed(count)
    return [model.z_from_flat(1 + _SPREAD * torch.randn(model.layout.size, generator=chance)) for _ in range(count)]
