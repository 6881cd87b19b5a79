"""The engine contract over a Serve handle: what runs on an engine runs unchanged in the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from zfleet.engine.contract import Chunk, Engine, EngineStats, GenerationRequest, ScoreRequest
from zfleet.svf.zvector import ZVector
from zfleet_cluster.errors import original

_WHO = "the engine replica"


class HandleEngine(Engine):
    """Calls an ``EngineReplica``. What the replica raises on purpose arrives as it was raised.

    Args:
        handle: Of the replica's deployment.
        max_length: The replica's.
    """

    def __init__(self, handle: DeploymentHandle[Any], max_length: int) -> None:
        self.max_length = max_length
        self._handle = handle
        self._streaming = handle.options(stream=True)

    @classmethod
    async def connect(cls, handle: DeploymentHandle[Any]) -> HandleEngine:
        """Ask the replica what a client must know."""
        return cls(handle, int(await _call(handle, "max_length")))

    async def put_z(self, z: ZVector) -> str:
        """As ``Engine.put_z``; the replica checks the bytes on arrival."""
        return str(await self._call("put_z", z.to_bytes()))

    async def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``."""
        await self._call("drop_z", digest)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """As ``Engine.generate``. When its reader leaves, Serve cancels the replica's stream, which aborts."""
        try:
            async for chunk in cast(AsyncIterator[Chunk], self._streaming.generate.remote(request)):
                yield chunk
        except (RayError, RayServeException) as error:
            raise original(error, _WHO) from None

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """As ``Engine.score``."""
        scores: tuple[float, ...] = await self._call("score", request)
        return scores

    async def abort(self, request_id: str) -> None:
        """As ``Engine.abort``."""
        await self._call("abort", request_id)

    async def stats(self) -> EngineStats:
        """As ``Engine.stats``."""
        stats: EngineStats = await self._call("stats")
        return stats

    async def check_health(self) -> None:
        """As ``Engine.check_health``."""
        await self._call("check_health")

    async def close(self) -> None:
        """Nothing to free: the replica belongs to Serve, which ends it with the application."""

    async def _call(self, method: str, *arguments: object) -> Any:
        return await _call(self._handle, method, *arguments)


async def _call(handle: DeploymentHandle[Any], method: str, *arguments: object) -> Any:
    try:
        return await getattr(handle, method).remote(*arguments)
    except (RayError, RayServeException) as error:
        raise original(error, _WHO) from None
