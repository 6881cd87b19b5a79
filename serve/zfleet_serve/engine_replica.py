"""The Serve deployment that holds the engine: the base once, and every expert that was put as a row of numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import torch
from ray import serve

from zfleet.config.specs import ServeSpec
from zfleet.engine.contract import Chunk, EngineStats, GenerationRequest, ScoreRequest
from zfleet.engine.torch_engine import TorchEngine
from zfleet.svf.zvector import ZVector
from zfleet_serve.base_store import fetch_bundle
from zfleet_serve.streams import closing

# The engine queues by itself; Serve's default of 5 would keep its batches empty.
_ONGOING = 4096


@serve.deployment(name="engine", max_ongoing_requests=_ONGOING, health_check_period_s=5)
class EngineReplica:
    """A ``TorchEngine`` behind a handle; ``HandleEngine`` is its other end.

    One replica: a z is put where it is used. Several would each have to be given every z.
    """

    async def __init__(self, spec: ServeSpec, store: str) -> None:  # type: ignore[misc]  # Serve awaits it
        """Open the base.

        Args:
            spec: The service.
            store: Name of the ``BaseStore`` that holds the base.

        Raises:
            BaseModelError, FactorsError: The base or its factors cannot be opened.
        """
        torch.set_num_threads(spec.resources.torch_threads)
        bundle = await fetch_bundle(store)
        self._engine = TorchEngine(await asyncio.to_thread(bundle.open), spec.engine)

    async def put_z(self, data: bytes) -> str:
        """As ``Engine.put_z``, from what ``ZVector.to_bytes`` wrote."""
        return await self._engine.put_z(ZVector.from_bytes(data, "the z sent to the engine"))

    async def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``."""
        await self._engine.drop_z(digest)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """As ``Engine.generate``."""
        async with closing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """As ``Engine.score``."""
        return await self._engine.score(request)

    async def abort(self, request_id: str) -> None:
        """As ``Engine.abort``."""
        await self._engine.abort(request_id)

    async def stats(self) -> EngineStats:
        """As ``Engine.stats``."""
        return await self._engine.stats()

    async def max_length(self) -> int:
        """The longest prompt and answer together, in tokens."""
        return self._engine.max_length
