"""Streams of an engine: closing one at once, and reading several as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from zfleet.engine.contract import Chunk
from zfleet.errors import EngineError

T = TypeVar("T")


@asynccontextmanager
async def closing(chunks: AsyncIterator[Chunk]) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Read chunks inside the block; leaving it ends their request, which would run on until it is collected."""
    try:
        yield chunks
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yield the items of all streams as they come. The first error ends all of them; so does leaving early.

    Raises:
        EngineError: A stream was cancelled from inside, by somebody else than the reader.
    """
    items: asyncio.Queue[T | BaseException | None] = asyncio.Queue()

    async def read(stream: AsyncGenerator[T, None]) -> None:
        async with aclosing(stream):
            async for item in stream:
                items.put_nowait(item)

    def ended(reader: asyncio.Task[None]) -> None:
        cancelled = EngineError("a part of the request was cancelled", "send it again")
        items.put_nowait(cancelled if reader.cancelled() else reader.exception())

    readers = [asyncio.create_task(read(stream)) for stream in streams]
    for reader in readers:
        # A callback, because a task that is cancelled before it begins runs none of its own code.
        reader.add_done_callback(ended)
    try:
        unfinished = len(readers)
        while unfinished:
            item = await items.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                unfinished -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
