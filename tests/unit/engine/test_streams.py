"""Several streams read as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfleet.engine.streams import merged
from zfleet.errors import EngineError


class Streams:
    """Streams of given items, which note how far they were read and that they were closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.forever = asyncio.Event()

    async def of(self, name: str, items: Sequence[object]) -> AsyncGenerator[tuple[str, object], None]:
        """Each item after a turn of the loop; an error is raised, and ``...`` waits for ever."""
        try:
            for item in items:
                await asyncio.sleep(0)
                if isinstance(item, BaseException):
                    raise item
                if item is ...:
                    await self.forever.wait()
                yield name, item
        finally:
            await asyncio.sleep(0)
            self.closed.append(name)


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=4))
def test_every_item_comes_once_and_each_stream_keeps_its_order(lists: list[list[int]]) -> None:
    async def gather() -> list[tuple[str, object]]:
        streams = Streams()
        parts = [streams.of(str(place), items) for place, items in enumerate(lists)]
        read = [item async for item in merged(parts)]
        assert len(streams.closed) == len(lists)
        return read

    read = asyncio.run(gather())
    assert [[item for name, item in read if name == str(place)] for place in range(len(lists))] == lists


async def _read(items: AsyncGenerator[object, None], read: list[object]) -> None:
    async for item in items:
        read.append(item)


async def test_items_come_when_they_are_there() -> None:
    streams = Streams()
    async with aclosing(merged([streams.of("slow", [...]), streams.of("quick", [1, 2])])) as items:
        assert [await anext(items), await anext(items)] == [("quick", 1), ("quick", 2)]


async def test_the_first_error_ends_all_streams() -> None:
    streams = Streams()
    parts = [streams.of("waits", [1, ...]), streams.of("fails", [2, KeyError("broken")]), streams.of("over", [])]
    read: list[object] = []
    with pytest.raises(KeyError, match="broken"):
        await _read(merged(parts), read)
    assert set(read) == {("fails", 2), ("waits", 1)}
    assert sorted(streams.closed) == ["fails", "over", "waits"]


async def test_leaving_early_ends_all_streams() -> None:
    streams = Streams()
    async with aclosing(merged([streams.of("one", [1, ...]), streams.of("other", [...])])) as items:
        await anext(items)
    assert sorted(streams.closed) == ["one", "other"]


async def test_a_stream_that_was_cancelled_keeps_nobody_waiting() -> None:
    streams = Streams()
    parts = [streams.of("waits", [...]), streams.of("cancelled", [1, asyncio.CancelledError()])]
    read: list[object] = []
    with pytest.raises(EngineError, match="cancelled"):
        await _read(merged(parts), read)
    assert read == [("cancelled", 1)]
    assert sorted(streams.closed) == ["cancelled", "waits"]


async def test_a_reader_that_is_cancelled_ends_all_streams() -> None:
    streams = Streams()
    reader = asyncio.create_task(anext(merged([streams.of("one", [...]), streams.of("other", [...])])))
    for _ in range(3):
        await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert sorted(streams.closed) == ["one", "other"]
