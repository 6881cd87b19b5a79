"""A member of the pool: an actor that holds an engine and answers whole batches of messages.

A call costs Ray about as much as the lab base needs for an answer. So requests that a client submits together
travel in one call, and what the engine has ready together comes back in one message.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from time import monotonic

import torch

from zfleet.config.specs import EngineSpec
from zfleet.engine.contract import Chunk, Engine, GenerationRequest, ScoreRequest
from zfleet.engine.open import open_engine
from zfleet.engine.streams import closing
from zfleet.errors import EngineError, UnknownZ, ZfleetError
from zfleet.svf.zvector import ZVector
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_cluster.fleet.host import EngineHost
from zfleet_cluster.fleet.leases import Holders

Work = GenerationRequest | ScoreRequest
Result = Chunk | tuple[float, ...] | ZfleetError
"""A piece of an answer, a score, or why there is none."""

_EARLY = 4096
"""How many stopped names are remembered. Ray may deliver a stop before the work; most come after its end."""


class Member(EngineHost):
    """An engine of the pool. It is opened by a call, not by its start: Ray starts it again when it died.

    Args:
        spec: The engine.
        torch_threads: Of this process.
    """

    def __init__(self, spec: EngineSpec, torch_threads: int) -> None:
        torch.set_num_threads(torch_threads)
        self._spec = spec
        self._opening = asyncio.Lock()
        self._holders = Holders()
        self._answering: dict[str, asyncio.Task[None]] = {}
        self._stopped: dict[str, None] = {}

    async def open(self, shipped: ShippedBase) -> int:
        """Open the engine where it is not open; its longest prompt and answer together, in tokens.

        Raises:
            BaseModelError, FactorsError: The base or its factors cannot be opened.
            EngineError: The engine is not installed on this node, or cannot run this base.
        """
        async with self._opening:
            if self.opened is None:
                self.opened = await open_engine(await shipped.bundle, self._spec)
        return self.opened.max_length

    async def close(self) -> None:
        """End the engine, and the processes it has started."""
        async with self._opening:
            if self.opened is not None:
                await self.opened.close()

    async def where(self) -> str:
        """Its process and machine."""
        return f"pid {os.getpid()} on {socket.gethostname()}"

    async def until_its_end(self) -> None:
        """Answer nothing as long as it lives."""
        await asyncio.Event().wait()

    async def hold_z(self, client: str, data: bytes) -> None:
        """``put_z`` for one client: the engine knows the z until the last client that put it drops it, or is silent.

        Raises:
            WrongBase, InvalidZ: As ``Engine.put_z``.
        """
        engine, z = self.engine, ZVector.from_bytes(data, "the z sent to the engine")
        self._holders.hold(client, z.digest, monotonic())
        try:
            for digest in self._holders.expire(monotonic()):
                with suppress(UnknownZ):
                    await engine.drop_z(digest)
            await engine.put_z(z)
        except BaseException:
            self._holders.release(client, z.digest)
            raise

    async def release_z(self, client: str, digest: str) -> None:
        """``drop_z`` for one client; nothing where it does not hold the z, which a member that was replaced forgot."""
        engine = self.engine
        if self._holders.release(client, digest):
            await engine.drop_z(digest)

    async def stop(self, name: str) -> None:
        """End a piece of work, wherever it is; nothing where it has ended."""
        task = self._answering.get(name)
        if task is not None:
            task.cancel()
            return
        self._stopped[name] = None
        if len(self._stopped) > _EARLY:
            del self._stopped[next(iter(self._stopped))]

    async def work(self, client: str, batch: Sequence[tuple[str, Work]]) -> AsyncIterator[list[tuple[int, Result]]]:
        """Answer requests side by side; each fails alone.

        Args:
            client: Who asks.
            batch: Each with a name for ``stop``, which no other work has.

        Yields:
            Results with the place of their request in the batch: all that came in since the last message.
        """
        engine = self.engine
        self._holders.hear(client, monotonic())
        results: asyncio.Queue[tuple[int, Result] | None] = asyncio.Queue()
        own: list[str] = []
        for place, (name, work) in enumerate(batch):
            if name in self._stopped:
                del self._stopped[name]
                continue
            task = asyncio.create_task(_answer(engine, place, work, results))
            # Not at the task's own end: one that is cancelled before it begins does nothing at all.
            task.add_done_callback(lambda _: results.put_nowait(None))
            self._answering[name] = task
            own.append(name)
        left = len(own)
        try:
            while left:
                items = [await results.get()]
                while not results.empty():
                    items.append(results.get_nowait())
                left -= items.count(None)
                message = [item for item in items if item is not None]
                if message:
                    yield message
        finally:
            for name in own:
                self._answering.pop(name).cancel()
            self._holders.hear(client, monotonic())


async def _answer(engine: Engine, place: int, work: Work, results: asyncio.Queue[tuple[int, Result] | None]) -> None:
    """Everything that one request gives."""
    try:
        if isinstance(work, ScoreRequest):
            results.put_nowait((place, await engine.score(work)))
            return
        async with closing(engine.generate(work)) as chunks:
            async for chunk in chunks:
                results.put_nowait((place, chunk))
    except ZfleetError as error:
        results.put_nowait((place, error))
    except Exception as error:  # sent on as the request's own failure: others of the batch go on
        results.put_nowait(
            (
                place,
                EngineError(
                    f"the request failed: {type(error).__name__}: {error}", "the log of the pool's member says more"
                ),
            )
        )
