"""An engine in a process of its own: what Serve's replica and the members of a job's pool have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator

from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.engine.contract import Chunk, Engine, EngineStats, GenerationRequest, ScoreRequest
from zfleet.engine.streams import closing
from zfleet.errors import EngineError
from zfleet.svf.zvector import ZVector


class NotOpen(EngineError):
    """The process has no engine yet: it was started again after it died."""


class EngineHost:
    """The engine contract as messages: a z arrives as bytes, and is checked on arrival.

    Attributes:
        opened: The engine; None until whoever derives from this has opened it.
    """

    opened: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            NotOpen: There is none yet.
        """
        if self.opened is None:
            raise NotOpen("the process of the engine was started again and has opened none yet", "send it again")
        return self.opened

    async def max_length(self) -> int:
        """The longest prompt and answer together, in tokens."""
        return self.engine.max_length

    async def put_z(self, data: bytes) -> str:
        """As ``Engine.put_z``, from what ``ZVector.to_bytes`` wrote."""
        return await self.engine.put_z(ZVector.from_bytes(data, "the z sent to the engine"))

    async def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``."""
        await self.engine.drop_z(digest)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """As ``Engine.generate``; it aborts when its reader leaves."""
        async with closing(self.engine.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """As ``Engine.score``."""
        return await self.engine.score(request)

    async def abort(self, request_id: str) -> None:
        """As ``Engine.abort``."""
        await self.engine.abort(request_id)

    async def stats(self) -> EngineStats:
        """As ``Engine.stats``."""
        return await self.engine.stats()

    async def check_health(self) -> None:
        """As ``Engine.check_health``; Serve calls it too."""
        await self.engine.check_health()


def engine_resources(engine: EngineSpec, resources: ResourceSpec) -> dict[str, float]:
    """What Ray reserves for an engine, as ``num_cpus`` and ``num_gpus``: every process it is split over counts."""
    processes = engine.vllm.tensor_parallel
    return {"num_cpus": resources.cpus * processes, "num_gpus": resources.gpus * processes}
