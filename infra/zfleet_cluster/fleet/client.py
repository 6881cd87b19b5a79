"""The engine contract over the replicas of a fleet: code for one engine runs unchanged on many."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial

from zfleet.engine.contract import (
    BASE_Z,
    ChoicesRequest,
    Chunk,
    Engine,
    EngineStats,
    GenerationRequest,
    HiddenRequest,
    PromptRequest,
    PromptScores,
)
from zfleet.errors import EngineError, RequestAborted, UnknownZ, ZfleetError
from zfleet.supervise import guarded
from zfleet.svf.zvector import ZVector
from zfleet_cluster.fleet.held_z import HeldZs
from zfleet_cluster.fleet.link import Link
from zfleet_cluster.fleet.links import Links, Replicas
from zfleet_cluster.fleet.messages import (
    AskErrors,
    AskStats,
    CheckHealth,
    ChooseDirections,
    Done,
    Errors,
    Failed,
    Reply,
    Stats,
)
from zfleet_cluster.fleet.questions import Questions, closed, nobody, total_stats
from zfleet_cluster.fleet.request import FleetRequest, Whole, Work

ATTEMPTS = 3
"""How often a request is sent before it fails: a request that kills replicas must not kill all of them."""

_LOG = logging.getLogger(__name__)


class FleetEngine(Engine):
    """One client's view of a fleet. It belongs to one event loop, and closing it ends no replica.

    A z goes to every replica at once and is remembered: a replica that joins or comes back gets all of them before
    any request. A request goes to the replica with the fewest of this client's answers under way; among equals, to the
    one that answers requests with the same beginning. When a replica dies, a request of which nothing arrived yet goes
    to another replica or waits for one; a request that was answered in part fails.

    Attributes:
        max_length: The longest prompt and answer together, in tokens.
    """

    def __init__(self, replicas: Replicas, token: bytes, max_length: int, wait_seconds: float) -> None:
        """Connect at the first use.

        Args:
            replicas: Finds the replicas.
            token: The secret of the fleet.
            max_length: That of the smallest replica.
            wait_seconds: How long a request waits while no replica answers.
        """
        self.max_length = max_length
        self._wait_seconds = wait_seconds
        self._links = Links(replicas, token, self)
        self._zs = HeldZs(self._links.all)
        self._questions = Questions(self._links.all, wait_seconds)
        self._requests: set[FleetRequest] = set()
        self._unsent: dict[FleetRequest, asyncio.TimerHandle] = {}
        self._directed: tuple[str, ...] = ()
        self._closed = False

    @property
    def replicas(self) -> int:
        """Return how many replicas are connected and not leaving."""
        return len(self._links.usable())

    async def put_z(self, z: ZVector) -> str:
        """As ``Engine.put_z``. Return when the first replica knows the z."""
        self._start()
        await self._zs.put(z, self._wait_seconds, self._nobody())
        return z.digest

    async def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``, for this client: replicas know the z as long as another client holds it."""
        self._zs.drop(digest)

    async def choose_directions(self, digests: Sequence[str], again: bool = False) -> None:
        """As ``Engine.choose_directions``, on every replica, and on one that joins later for those z that are held.

        Return when the first has chosen.
        """
        for digest in digests:
            self._check_held(digest)
        self._directed = directed = tuple(digests)
        self._start()
        await self._questions.ask(lambda number: ChooseDirections(number, directed, again), Done)

    async def truncation_errors(self) -> dict[str, float]:
        """As ``Engine.truncation_errors``: the largest of any replica."""
        self._start()
        each = [reply.errors for reply in await self._questions.ask(AskErrors, Errors)]
        return {digest: max(errors.get(digest, 0.0) for errors in each) for digest in set().union(*each)}

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

    async def score_choices(self, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
        """As ``Engine.score_choices``."""
        return await self._whole(request)

    async def score_prompt(self, request: PromptRequest) -> PromptScores:
        """As ``Engine.score_prompt``."""
        scores = await self._whole(request)
        assert isinstance(scores, PromptScores)
        return scores

    async def hidden_state(self, request: HiddenRequest) -> tuple[float, ...]:
        """As ``Engine.hidden_state``."""
        return await self._whole(request)

    async def abort(self, request_id: str) -> None:
        """As ``Engine.abort``, for this client's requests."""
        for request in [request for request in self._requests if request.request_id == request_id]:
            self._end(request, RequestAborted(f"request {request_id} was aborted", "send it again"))

    async def stats(self) -> EngineStats:
        """Return sums over replicas and clients; a z counts once, and peaks are those of the busiest replica.

        A replica that does not answer within a second of the first one is left out.
        """
        self._start()
        each = [reply.stats for reply in await self._questions.ask(AskStats, Stats)]
        return total_stats(each, len(self._unsent))

    async def check_health(self) -> None:
        """As ``Engine.check_health``: one replica that is well is enough."""
        self.check_links()
        self._start()
        await self._questions.ask(CheckHealth, Done)

    def check_links(self) -> None:
        """Check that this client can look for replicas, whether there are any or not.

        Raises:
            EngineError: Looking for them keeps failing, or hangs.
        """
        self._links.check()

    async def close(self) -> None:
        """End this client's requests and its connections, which drops its z-vectors; the replicas go on."""
        if self._closed:
            return
        self._closed = True
        for request in list(self._requests):
            self._end(request, closed())
        self._zs.fail_waiting(closed())
        self._questions.close()
        await self._links.close()

    def joined(self, link: Link) -> None:
        """As ``Owner.joined``: send every z, then the requests that wait."""
        self._zs.send_all(link)
        if directed := tuple(digest for digest in self._directed if digest in self._zs):
            link.call(lambda number: ChooseDirections(number, directed, False), _note_choice)
        for request in list(self._unsent):
            self._send(request)

    def lost(self, link: Link) -> None:
        """As ``Owner.lost``: send its requests to other replicas, or fail them."""
        self._questions.lost(link)
        error = EngineError(
            "a replica of the engine died with the request", "send the request again: the replica is started again"
        )
        for request in [request for request in self._requests if request.link is link]:
            with guarded("sending a request again", partial(self._end, request)):
                self._try_again(request, error)
        self._zs.lost(link)

    def unreachable(self, error: ZfleetError) -> None:
        """As ``Owner.unreachable``: fail everybody who waits."""
        for request in list(self._unsent):
            self._end(request, error)
        self._zs.fail_waiting(error)

    def _check_held(self, digest: str) -> None:
        if digest not in self._zs:
            raise UnknownZ(f"no z {digest[:12]!r} is known", "give it to put_z first")

    def _start(self) -> None:
        if self._closed:
            raise closed()
        self._links.start()

    async def _whole(self, work: ChoicesRequest | HiddenRequest | PromptRequest) -> Whole:
        """Send a request that one reply answers, and wait for it."""
        request = self._submit(work, 1)
        try:
            reply = await request.next()
            assert isinstance(reply, tuple)
            return reply
        finally:
            self._end(request)

    def _submit(self, work: Work, answers: int) -> FleetRequest:
        self._start()
        if work.z_digest != BASE_Z:
            self._check_held(work.z_digest)
        request = FleetRequest(work, answers)
        self._requests.add(request)
        self._send(request)
        return request

    def _send(self, request: FleetRequest) -> None:
        """Send a request to the replica that suits it best, or keep it until there is one."""
        if request.done:
            return
        self._forget_unsent(request)
        usable = self._links.usable()
        if not usable:
            loop = asyncio.get_running_loop()
            self._unsent[request] = loop.call_later(self._wait_seconds, self._end, request, self._nobody())
            return
        links = [link for link in usable if not self._zs.refused_by(link, request.work.z_digest)] or usable
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
                self._zs.send_again(request.link, request.work.z_digest)
                self._try_again(request, error)
            else:
                request.take_back()
                self._end(request, error)
            return
        request.take(reply)
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

    def _end(self, request: FleetRequest, error: ZfleetError | None = None) -> None:
        """End a request; a replica that still works on it stops."""
        if request.done:
            return
        self._forget_unsent(request)
        link = request.link
        if link is not None:
            link.stop(request.number) if request.unended else link.finish(request.number)
        request.end(error)
        self._requests.discard(request)

    def _forget_unsent(self, request: FleetRequest) -> None:
        timer = self._unsent.pop(request, None)
        if timer is not None:
            timer.cancel()

    def _nobody(self) -> EngineError:
        return nobody(self._wait_seconds)


def _note_choice(reply: Reply) -> None:
    if isinstance(reply, Failed):
        _LOG.warning("a replica that joined has chosen no directions, and computes every z exactly: %s", reply.error)
