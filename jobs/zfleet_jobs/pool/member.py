"""A member of the pool: an actor that holds an engine and answers whole batches of messages.

A call costs Ray about as much as the lab base needs for an answer. So requests that a client submits together
travel in one call, and what the engine has ready together comes back in one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import torch

from zfleet.config.specs import EngineSpec
from zfleet.engine.contract import Chunk, GenerationRequest, ScoreRequest
from zfleet.engine.open import OpenEngine, open_engine
from zfleet.engine.streams import closing
from zfleet.errors import EngineError, ZfleetError
from zfleet_cluster.engine_host import EngineHost
from zfleet_jobs.shipping import ShippedBase

Work = GenerationRequest | ScoreRequest
Result = Chunk | tuple[float, ...] | ZfleetError
"""A piece of an answer, a score, or why there is none."""


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

    async def work(self, batch: Sequence[Work]) -> AsyncIterator[list[tuple[int, Result]]]:
        """Answer requests side by side; each fails alone.

        Yields:
            Results with the place of their request in the batch: all that came in since the last message.
        """
        engine = self.engine
        results: asyncio.Queue[tuple[int, Result] | None] = asyncio.Queue()
        tasks = [asyncio.create_task(_answer(engine, place, work, results)) for place, work in enumerate(batch)]
        left = len(tasks)
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
            for task in tasks:
                task.cancel()


async def _answer(
    engine: OpenEngine, place: int, work: Work, results: asyncio.Queue[tuple[int, Result] | None]
) -> None:
    """Everything that one request gives, then None."""
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
    finally:
        results.put_nowait(None)
