"""An engine whose z-vectors outlive the replica behind it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator

from zfleet.engine.contract import Chunk, Engine, EngineStats, GenerationRequest, ScoreRequest
from zfleet.engine.streams import closing
from zfleet.errors import UnknownZ
from zfleet.svf.zvector import ZVector

KEPT = 1024


class LastingEngine(Engine):
    """Remembers what was put, and puts it again where a restarted replica does not know it.

    Args:
        engine: The engine that may forget.
        kept: z-vectors to remember; beyond that the least recently used is dropped.
    """

    def __init__(self, engine: Engine, kept: int = KEPT) -> None:
        self.max_length = engine.max_length
        self._engine = engine
        self._kept = kept
        self._zs: OrderedDict[str, ZVector] = OrderedDict()

    def holds(self, digest: str) -> bool:
        """Whether requests may use this z without another ``put_z``."""
        return digest in self._zs

    async def put_z(self, z: ZVector) -> str:
        """As ``Engine.put_z``; costs nothing for a z that it holds."""
        if z.digest not in self._zs:
            await self._engine.put_z(z)
            self._zs[z.digest] = z
            while len(self._zs) > self._kept:
                await self._forget(self._zs.popitem(last=False)[0])
        return z.digest

    async def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``."""
        self._zs.pop(digest, None)
        await self._engine.drop_z(digest)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """As ``Engine.generate``. ``UnknownZ`` comes before the first chunk, so that nothing is said twice."""
        self._touch(request.z)
        try:
            async with closing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        except UnknownZ as error:
            await self._put_again(request.z, error)
        async with closing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """As ``Engine.score``."""
        self._touch(request.z)
        try:
            return await self._engine.score(request)
        except UnknownZ as error:
            await self._put_again(request.z, error)
        return await self._engine.score(request)

    async def abort(self, request_id: str) -> None:
        """As ``Engine.abort``."""
        await self._engine.abort(request_id)

    async def stats(self) -> EngineStats:
        """As ``Engine.stats``."""
        return await self._engine.stats()

    async def check_health(self) -> None:
        """As ``Engine.check_health``."""
        await self._engine.check_health()

    async def close(self) -> None:
        """As ``Engine.close``."""
        await self._engine.close()

    def _touch(self, digest: str) -> None:
        if digest in self._zs:
            self._zs.move_to_end(digest)

    async def _put_again(self, digest: str, error: UnknownZ) -> None:
        if digest not in self._zs:
            raise error
        await self._engine.put_z(self._zs[digest])

    async def _forget(self, digest: str) -> None:
        try:
            await self._engine.drop_z(digest)
        except UnknownZ:
            return  # a replica that restarted does not know it anyway
