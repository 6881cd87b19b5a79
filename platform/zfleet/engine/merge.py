"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from zfleet.errors import EngineError

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Items of all streams as they come. The first error ends all of them; so does leaving early.

    Raises:
        EngineError: A stream was cancelled from inside, by somebody else than who reads here.
    """
    items: asyncio.Queue[T | Exception | None] = asyncio.Queue()

    async def read(stream: AsyncGenerator[T, None]) -> None:
        end: Exception | None = EngineError("a part of the request was cancelled", "send it again")
        try:
            async with aclosing(stream):
                async for item in stream:
                    items.put_nowait(item)
            end = None
        except Exception as error:  # raised again where the items are read
            end = error
        finally:
            items.put_nowait(end)

    readers = [asyncio.create_task(read(stream)) for stream in streams]
    try:
        left = len(readers)
        while left:
            item = await items.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
