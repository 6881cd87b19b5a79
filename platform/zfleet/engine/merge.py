"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Items of all streams as they come. The first error ends all of them; so does leaving early."""
    items: asyncio.Queue[T | BaseException | None] = asyncio.Queue()

    async def read(stream: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    items.put_nowait(item)
        except Exception as error:  # raised again where the items are read
            items.put_nowait(error)
        else:
            items.put_nowait(None)

    readers = [asyncio.create_task(read(stream)) for stream in streams]
    try:
        left = len(readers)
        while left:
            item = await items.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
