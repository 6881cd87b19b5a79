"""The engine contract over the replicas of a fleet: what runs on an engine runs unchanged on many."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from zfleet.engine.contract import BASE_Z, Chunk, Engine, EngineStats, GenerationRequest, ScoreRequest
from zfleet.errors import EngineError, RequestAborted, UnknownZ, ZfleetError
from zfleet.svf.zvector import ZVector
from zfleet_cluster.fleet.link import Link
from zfleet_cluster.fleet.listener import Address
from zfleet_cluster.fleet.messages import (
    AskStats,
    Call,
    CheckHealth,
    Done,
    DropZ,
    Failed,
    Piece,
    PutZ,
    Reply,
    Scored,
    Stats,
)
from zfleet_cluster.fleet.request import FleetRequest

ATTEMPTS = 3
"""How often a request is sent before it fails: one that takes replicas down must not take all of them."""
LOOK_SECONDS = 1.0
"""How often the client looks for replicas that joined or left; it looks at once when it has lost one."""
_LOOK_AGAIN_SECONDS = 0.1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """The replicas of a fleet at one moment.

    Attributes:
        addresses: Of those that answer.
        failure: Why none does and none will, where that is known.
    """

    addresses: tuple[Address, ...]
    failure: ZfleetError | None = None


class Replicas(Protocol):
    """Whoever holds the replicas of a fleet."""

    async def find(self) -> Found:
        """Say where the replicas listen that answer now; never waits for one that is starting."""


@dataclass(eq=False)
class _HeldZ:
    """A z that this client put and did not drop."""

    data: bytes
    known: asyncio.Future[None]


class FleetEngine(Engine):
    """One client's view of a fleet. It belongs to one event loop, and closing it ends no replica.

    A z goes to every replica at once and is remembered: a replica that joins or comes back gets all of them before
    any request. A request goes where this client has the fewest answers under way; among those, where requests that
    begin alike went before. When a replica dies, a request of which nothing arrived yet goes to another, or waits for
    one; one that was half answered fails.

    Attributes:
        max_length: The longest prompt and answer together, in tokens.
    """

    def __init__(self, replicas: Replicas, token: bytes, max_length: int, wait_seconds: float) -> None:
        """Connect at the first use.

        Args:
            replicas: Says where they are.
            token: The fleet's.
            max_length: Of the smallest replica.
            wait_seconds: How long a request waits while no replica answers.
        """
        self.max_length = max_length
        self._replicas = replicas
        self._token = token
        self._wait_seconds = wait_seconds
        self._links: dict[str, Link] = {}
        self._leaving: set[str] = set()
        self._zs: dict[str, _HeldZ] = {}
        self._requests: set[FleetRequest] = set()
        self._unsent: list[FleetRequest] = []
        self._asked: dict[asyncio.Future[Reply], Link] = {}
        self._look = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    async def put_z(self, z: ZVector) -> str:
        """As ``Engine.put_z``; returns when the first replica knows it, and costs nothing for a z that was put."""
        self._start()
        held = self._zs.get(z.digest)
        if held is None:
            held = _HeldZ(z.to_bytes(), asyncio.get_running_loop().create_future())
            self._zs[z.digest] = held
            for link in self._links.values():
                self._push(link, held)
        # Unlike awaiting the future, this leaves it to the others who wait when one of them is cancelled.
        await asyncio.wait([held.known], timeout=self._wait_seconds)
        if held.known.done() and held.known.exception() is None:
            return z.digest
        if self._zs.get(z.digest) is held:
            self._forget(z.digest)
        raise (held.known.exception() if held.known.done() else self._nobody()) or closed()

    async def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``, for this client: replicas know the z as long as another client holds it."""
        if digest not in self._zs:
            raise UnknownZ(f"this client of the fleet did not put z {digest[:12]!r}", "give it to put_z first")
        self._forget(digest)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """As ``Engine.generate``.

        Raises:
            EngineError: The replica died when a part of the answer had arrived, or several died with the request,
                or no replica answers.
        """
        fleet_request = self._submit(request, request.sampling.n)
        unread = request.sampling.n
        try:
            while unread:
                chunk = await fleet_request.next()
                assert isinstance(chunk, Chunk)
                unread -= chunk.finish_reason is not None
                yield chunk
        finally:
            self._end(fleet_request)

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """As ``Engine.score``."""
        fleet_request = self._submit(request, 1)
        try:
            logprobs = await fleet_request.next()
            assert isinstance(logprobs, tuple)
            return logprobs
        finally:
            self._end(fleet_request)

    async def abort(self, request_id: str) -> None:
        """As ``Engine.abort``, for this client's requests."""
        for request in [request for request in self._requests if request.request_id == request_id]:
            self._end(request, RequestAborted(f"request {request_id} was aborted", "send it again"))

    async def stats(self) -> EngineStats:
        """Of all clients: sums over the replicas, but a z counts once, and peaks are the busiest replica's."""
        each = [reply.stats for reply in await self._ask(AskStats) if isinstance(reply, Stats)]
        if not each:
            raise self._nobody()
        return EngineStats(
            running=sum(stats.running for stats in each),
            waiting=sum(stats.waiting for stats in each) + len(self._unsent),
            known_z=max(stats.known_z for stats in each),
            resident_z=sum(stats.resident_z for stats in each),
            table_rows=sum(stats.table_rows for stats in each),
            generated_tokens=sum(stats.generated_tokens for stats in each),
            peak_batch=max(stats.peak_batch for stats in each),
            peak_distinct_z=max(stats.peak_distinct_z for stats in each),
        )

    async def check_health(self) -> None:
        """As ``Engine.check_health``: one replica that is well is enough."""
        replies = await self._ask(CheckHealth)
        if not any(isinstance(reply, Done) for reply in replies):
            raise next((reply.error for reply in replies if isinstance(reply, Failed)), self._nobody())

    async def close(self) -> None:
        """End this client's requests and its connections, which drops its z-vectors; the replicas go on."""
        if self._closed:
            return
        self._closed = True
        for request in list(self._requests):
            self._end(request, closed())
        self._fail_waiting(closed())
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for reply in self._asked:
            reply.cancel()
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close() for link in links))

    def _start(self) -> None:
        if self._closed:
            raise closed()
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def _connected(self) -> None:
        """Wait for a replica."""
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        while not self._links:
            if self._closed:
                raise closed()
            if asyncio.get_running_loop().time() > deadline:
                raise self._nobody()
            await asyncio.sleep(_LOOK_AGAIN_SECONDS / 10)

    async def _watch(self) -> None:
        """Keep a link to every replica, for as long as the client lives."""
        while True:
            self._look.clear()
            try:
                await self._look_around()
            except Exception:
                _LOG.exception("looking for the replicas of the fleet failed; it is tried again")
            self._fail_overdue()
            seconds = LOOK_SECONDS if self._links else _LOOK_AGAIN_SECONDS
            try:
                async with asyncio.timeout(seconds):
                    await self._look.wait()
            except TimeoutError:
                continue
            # What was lost a moment ago may still be on the list of those that answer.
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def _look_around(self) -> None:
        found = await self._replicas.find()
        listed = {address.replica for address in found.addresses}
        self._leaving = self._links.keys() - listed
        new = [address for address in found.addresses if address.replica not in self._links]
        await asyncio.gather(*map(self._connect, new))
        if not self._links and found.failure is not None:
            for request in list(self._requests):
                self._end(request, found.failure)
            self._fail_waiting(found.failure)

    async def _connect(self, address: Address) -> None:
        link = Link(address, self._lost)
        try:
            await link.connect(self._token)
        except (OSError, TimeoutError) as error:
            _LOG.info("replica %s does not listen: %s", address, error)
            return
        for held in self._zs.values():
            self._push(link, held)
        self._links[address.replica] = link
        unsent, self._unsent = self._unsent, []
        for request in unsent:
            self._send(request)

    def _lost(self, link: Link) -> None:
        self._links.pop(link.address.replica, None)
        self._look.set()
        error = EngineError(
            "a replica of the engine died with the request", "send the request again: the replica is started again"
        )
        for reply, asked in self._asked.items():
            if asked is link:
                reply.cancel()
        for request in [request for request in self._requests if request.link is link]:
            self._try_again(request, error)

    def _push(self, link: Link, held: _HeldZ) -> None:
        link.call(lambda number: PutZ(number, held.data), partial(self._took_z, held))

    def _took_z(self, held: _HeldZ, reply: Reply) -> None:
        if isinstance(reply, Failed):
            if held.known.done():
                _LOG.warning("a replica does not take a z that another one took: %s", reply.error)
            else:
                held.known.set_exception(reply.error)
        elif not held.known.done():
            assert isinstance(reply, Done)
            held.known.set_result(None)

    def _forget(self, digest: str) -> None:
        del self._zs[digest]
        for link in self._links.values():
            link.tell(DropZ(digest))

    def _fail_waiting(self, error: ZfleetError) -> None:
        """Fail those who wait until a replica knows their z."""
        for held in self._zs.values():
            if not held.known.done():
                held.known.set_exception(error)

    async def _ask(self, build: Callable[[int], Call]) -> list[Reply]:
        """What all replicas reply that do not die meanwhile."""
        self._start()
        await self._connected()
        asked: list[asyncio.Future[Reply]] = []
        for link in self._links.values():
            reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._asked[reply] = link
            link.call(build, partial(_resolve, reply))
            asked.append(reply)
        try:
            await asyncio.wait(asked)
        finally:
            for reply in asked:
                del self._asked[reply]
        return [reply.result() for reply in asked if not reply.cancelled()]

    def _submit(self, work: GenerationRequest | ScoreRequest, answers: int) -> FleetRequest:
        self._start()
        if work.z_digest != BASE_Z and work.z_digest not in self._zs:
            raise UnknownZ(f"no z {work.z_digest[:12]!r} is known", "give it to put_z first")
        request = FleetRequest(work, answers, asyncio.get_running_loop().time())
        self._requests.add(request)
        self._send(request)
        return request

    def _send(self, request: FleetRequest) -> None:
        """Send a request to the replica that suits it best, or keep it until there is one."""
        if request.done:
            return
        links = [link for name, link in self._links.items() if name not in self._leaving] or [*self._links.values()]
        if not links:
            self._unsent.append(request)
            return
        least = min(link.load for link in links)
        idle = [link for link in links if link.load == least]
        link = idle[0]
        if len(idle) > 1:
            link = max(idle, key=lambda link: request.preference(link.address.replica))
        request.assign(link, link.call(request.message, partial(self._receive, request)))

    def _receive(self, request: FleetRequest, reply: Reply) -> None:
        if request.done:
            return
        if isinstance(reply, Failed):
            error = reply.error
            if isinstance(error, UnknownZ) and request.work.z_digest in self._zs and request.link is not None:
                # The replica lost it, an engine that was started again for example.
                self._push(request.link, self._zs[request.work.z_digest])
                self._try_again(request, error)
            else:
                request.take_back()
                self._end(request, error)
            return
        assert isinstance(reply, Piece | Scored)
        request.put(reply.chunk if isinstance(reply, Piece) else reply.logprobs)
        if not request.unended:
            self._end(request)

    def _try_again(self, request: FleetRequest, reason: ZfleetError) -> None:
        request.take_back()
        if request.answered:
            self._end(request, reason)
        elif request.attempts >= ATTEMPTS:
            self._end(request, EngineError(f"sent {ATTEMPTS} times in vain: {reason.message}", reason.remedy))
        else:
            self._send(request)

    def _fail_overdue(self) -> None:
        now = asyncio.get_running_loop().time()
        overdue = [request for request in self._unsent if now - request.submitted > self._wait_seconds]
        for request in overdue:
            self._end(request, self._nobody())
        self._unsent = [request for request in self._unsent if not request.done]

    def _end(self, request: FleetRequest, error: ZfleetError | None = None) -> None:
        """End a request; a replica that still works on it stops."""
        if request.done:
            return
        link = request.link
        if link is not None:
            link.stop(request.number) if request.unended else link.finish(request.number)
        request.end(error)
        self._requests.discard(request)

    def _nobody(self) -> EngineError:
        return EngineError(
            f"no replica of the engine answered within {self._wait_seconds:g} s",
            "send the request again; the logs of the replicas say why they do not start",
        )


def _resolve(future: asyncio.Future[Reply], reply: Reply) -> None:
    if not future.done():
        future.set_result(reply)


def closed() -> EngineError:
    """Describe a call of a closed client."""
    return EngineError("the engine is closed", "open another one and send the request again")
