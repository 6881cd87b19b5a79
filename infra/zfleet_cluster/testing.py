"""For tests: a fleet whose listeners and clients live in one process, without Ray."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from zfleet.engine.contract import ChoicesRequest, Chunk, Engine, EngineStats, GenerationRequest
from zfleet.errors import ZfleetError
from zfleet.testing.fake_engine import FakeEngine
from zfleet_cluster.fleet.client import FleetEngine
from zfleet_cluster.fleet.links import Found
from zfleet_cluster.fleet.listener import Address, Listener

TOKEN = secrets.token_bytes(32)
MAX_LENGTH = 400


class LocalReplicas:
    """Listeners of this process, which a test starts and ends.

    Attributes:
        listeners: By address.
        strangers: Addresses that are found, too.
        hidden: Addresses that are not found.
        failure: See ``Found``.
        error: Raised by ``find``; None lets it work.
    """

    def __init__(self) -> None:
        self.listeners: dict[Address, Listener] = {}
        self.strangers: set[Address] = set()
        self.hidden: set[Address] = set()
        self.failure: ZfleetError | None = None
        self.error: Exception | None = None

    async def find(self) -> Found:
        """As ``Replicas.find``."""
        if self.error is not None:
            raise self.error
        return Found(tuple((self.listeners.keys() | self.strangers) - self.hidden), self.failure)

    async def start(self, engine: Engine) -> Address:
        """Start a replica."""
        listener = Listener(engine, TOKEN)
        address = await listener.start("127.0.0.1")
        self.listeners[address] = listener
        return address

    async def end(self, address: Address) -> None:
        """End a replica and its engine, as if its process had died."""
        listener = self.listeners.pop(address)
        await listener.close()
        await listener.engine.close()

    async def end_all(self) -> None:
        """End all replicas."""
        for address in list(self.listeners):
            await self.end(address)

    def client(self, wait_seconds: float = 20.0) -> FleetEngine:
        """Make a client."""
        return FleetEngine(self, TOKEN, MAX_LENGTH, wait_seconds)


@asynccontextmanager
async def local_fleet(
    engines: Sequence[Engine], wait_seconds: float = 20.0
) -> AsyncIterator[tuple[LocalReplicas, FleetEngine]]:
    """Run replicas, and a client that is linked to all of them."""
    replicas = LocalReplicas()
    for engine in engines:
        await replicas.start(engine)
    client = replicas.client(wait_seconds)
    try:
        if engines:
            await linked(client, len(engines))
        yield replicas, client
    finally:
        await client.close()
        await replicas.end_all()


async def linked(client: FleetEngine, replicas: int) -> None:
    """Wait until a client is linked to so many replicas."""
    client._links.start()
    async with asyncio.timeout(10):
        while len(client._links.all()) != replicas:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def closing(client: FleetEngine) -> AsyncIterator[FleetEngine]:
    """Close a client after the block."""
    try:
        yield client
    finally:
        await client.close()


class Acting(FakeEngine):
    """An engine with methods that a test replaces.

    Attributes:
        acts: By name of the method; the result may be a coroutine.
        called: How often each method was called.
    """

    def __init__(self, **acts: Callable[[], Any]) -> None:
        super().__init__()
        self.acts = acts
        self.called: dict[str, int] = {}

    async def _act(self, name: str, whole: Callable[[], Awaitable[Any]]) -> Any:
        self.called[name] = self.called.get(name, 0) + 1
        act = self.acts.get(name)
        if act is None:
            return await whole()
        done = act()
        return await done if asyncio.iscoroutine(done) else done

    async def score_choices(self, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
        """As ``Engine.score_choices``."""
        scores: tuple[tuple[float, ...], ...] = await self._act(
            "score_choices", lambda: FakeEngine.score_choices(self, request)
        )
        return scores

    async def stats(self) -> EngineStats:
        """As ``Engine.stats``."""
        stats: EngineStats = await self._act("stats", lambda: FakeEngine.stats(self))
        return stats

    async def check_health(self) -> None:
        """As ``Engine.check_health``."""
        await self._act("check_health", lambda: FakeEngine.check_health(self))

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """As ``Engine.generate``. An act takes the place of all chunks."""
        if "generate" in self.acts:
            await self._act("generate", asyncio.Event().wait)
            return
        async for chunk in super().generate(request):
            yield chunk


async def for_ever() -> None:
    """Never return."""
    await asyncio.Event().wait()


def raises(error: BaseException) -> Callable[[], None]:
    """Make an act that raises."""

    def act() -> None:
        raise error

    return act


async def outcome(work: Awaitable[Any]) -> Any:
    """Return the result or the error of work that must end within ten seconds."""
    async with asyncio.timeout(10):
        found = await asyncio.gather(work, return_exceptions=True)
        return found[0]


def idle(client: FleetEngine) -> bool:
    """Return whether no answer of a client counts as under way anywhere."""
    return not client._requests and not client._unsent and all(not link.load for link in client._links.all())
