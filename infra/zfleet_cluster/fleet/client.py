"""The engine contract over the members of a pool: what runs on an engine runs unchanged on a fleet of them."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from zfleet.engine.contract import Chunk, Engine, EngineStats, GenerationRequest, ScoreRequest
from zfleet.errors import EngineError, RequestAborted, UnknownZ, ZfleetError
from zfleet.svf.zvector import ZVector
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_cluster.fleet.link import Line, MemberLost, closed
from zfleet_cluster.fleet.replica import Result
from zfleet_cluster.fleet.task import PoolTask, Sending

ATTEMPTS = 3
"""How often a request is sent before it fails: one that takes members down must not take all of them."""


class PoolEngine(Engine):
    """One client's view of the pool: it belongs to one event loop, and closing it ends no member.

    A z goes to every member once and is remembered: a member that was replaced is given it again. Requests go where
    this client has the fewest answers under way. When a member dies, a request of which nothing arrived yet goes
    to another one, or to the same when it is back; one that was half answered fails.

    Attributes:
        max_length: The longest prompt and answer together, in tokens.

    Args:
        members: Actor handles of ``Member``.
        shipped: The base that they open.
        max_length: The smallest of theirs.
    """

    def __init__(self, members: Sequence[Any], shipped: ShippedBase, max_length: int) -> None:
        self.max_length = max_length
        self._name = uuid.uuid4().hex
        self._lines = [Line(member, shipped) for member in members]
        # Clients of a pool do not all begin with the same member. (The module's own numbers are the learner's.)
        random.SystemRandom().shuffle(self._lines)
        self._zs: dict[str, bytes] = {}
        self._tasks: set[PoolTask] = set()
        self._outbox: list[PoolTask] = []
        self._working: set[asyncio.Task[None]] = set()
        self._sendings = 0
        self._closed = False

    async def put_z(self, z: ZVector) -> str:
        """As ``Engine.put_z``; costs nothing for a z that was put."""
        if z.digest not in self._zs:
            data = z.to_bytes()
            await self._ask_all("hold_z", self._name, data)
            if self._closed:
                await self._forget(z.digest)
                raise closed()
            self._zs[z.digest] = data
        return z.digest

    async def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``, for this client: members know the z as long as another client holds it."""
        if self._zs.pop(digest, None) is None:
            raise UnknownZ(f"this client of the pool did not put z {digest[:12]!r}", "give it to put_z first")
        await self._forget(digest)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """As ``Engine.generate``.

        Raises:
            EngineError: The member died when a part of the answer had arrived, or several died with the request.
        """
        task = PoolTask(request, request.sampling.n)
        self._submit(task)
        left = request.sampling.n
        try:
            while left:
                chunk = await task.next()
                assert isinstance(chunk, Chunk)
                left -= chunk.finish_reason is not None
                yield chunk
        finally:
            self._end(task)

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """As ``Engine.score``."""
        task = PoolTask(request, 1)
        self._submit(task)
        try:
            scores = await task.next()
            assert isinstance(scores, tuple)
            return scores
        finally:
            self._end(task)

    async def abort(self, request_id: str) -> None:
        """As ``Engine.abort``, for this client's requests."""
        for task in [task for task in self._tasks if task.request_id == request_id]:
            self._end(task, RequestAborted(f"request {request_id} was aborted", "send it again"))

    async def stats(self) -> EngineStats:
        """Of all clients: sums over the members, but a z counts once, and peaks are the busiest member's."""
        each: list[EngineStats] = await self._ask_all("stats")
        return EngineStats(
            running=sum(one.running for one in each),
            waiting=sum(one.waiting for one in each) + len(self._outbox),
            known_z=max(one.known_z for one in each),
            resident_z=sum(one.resident_z for one in each),
            table_rows=sum(one.table_rows for one in each),
            generated_tokens=sum(one.generated_tokens for one in each),
            peak_batch=max(one.peak_batch for one in each),
            peak_distinct_z=max(one.peak_distinct_z for one in each),
        )

    async def check_health(self) -> None:
        """As ``Engine.check_health``: every member that is up is asked, and one that answers must be healthy."""
        await self._ask_all("check_health")

    async def close(self) -> None:
        """End this client's requests and drop its z-vectors; the members go on."""
        if self._closed:
            return
        self._closed = True
        for task in list(self._tasks):
            self._end(task, closed())
        digests, self._zs = list(self._zs), {}
        await asyncio.gather(*map(self._forget, digests))
        for line in self._lines:
            line.hang_up()
        for work in self._working:
            work.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    async def _ask_all(self, method: str, *arguments: object) -> list[Any]:
        """The answers of all members; of one that is away none is wanted while there are others."""
        if self._closed:
            raise closed()
        for _ in range(ATTEMPTS):
            lines = [line for line in self._lines if line.up] or self._lines
            answers = await asyncio.gather(*(line.call(method, *arguments) for line in lines), return_exceptions=True)
            for error in answers:
                if isinstance(error, BaseException) and not isinstance(error, MemberLost):
                    raise error
            given = [answer for answer in answers if not isinstance(answer, BaseException)]
            if given:
                return given
        raise EngineError("no member of the engine pool answers", "the logs of its actors say why")

    async def _forget(self, digest: str) -> None:
        """Let go of a z at every member; one that was replaced knows none."""
        calls = (line.call("release_z", self._name, digest) for line in self._lines if line.up)
        for error in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(error, BaseException) and not isinstance(error, UnknownZ | MemberLost):
                raise error

    def _submit(self, task: PoolTask) -> None:
        if self._closed:
            raise closed()
        self._tasks.add(task)
        self._send(task)

    def _send(self, task: PoolTask) -> None:
        """Together with all that is submitted in the same turn of the event loop."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(task)

    def _flush(self) -> None:
        outbox, self._outbox = [task for task in self._outbox if not task.done], []
        lines = [line for line in self._lines if line.up] or self._lines
        batches: dict[Line, list[Sending]] = {}
        for task in outbox:
            line = min(lines, key=lambda line: line.load)
            self._sendings += 1
            batches.setdefault(line, []).append(task.send(line, f"{self._name}/{self._sendings}"))
        for line, batch in batches.items():
            working = asyncio.create_task(self._work(line, batch))
            self._working.add(working)
            working.add_done_callback(self._working.discard)

    async def _work(self, line: Line, batch: list[Sending]) -> None:
        """Send a batch to a member and hand out what comes back."""
        left: ZfleetError = EngineError("a member of the engine pool left the request unanswered", "send it again")
        try:
            await line.ready()
            # What ended in the meantime was never sent, so that nobody could have told the member to stop.
            batch = [sending for sending in batch if sending.current]
            if not batch:
                return
            async with aclosing(line.work(self._name, [sending.message for sending in batch])) as messages:
                async for message in messages:
                    current = [(batch[place].task, result) for place, result in message if batch[place].current]
                    unknown = [task for task, result in current if self._take(task, result)]
                    if unknown:
                        await self._put_again(line, unknown)
        except MemberLost as error:
            left = error
        except ZfleetError as error:  # the member lives, but its engine does not open
            for sending in batch:
                if sending.current:
                    self._end(sending.task, error)
        finally:
            for sending in batch:
                if sending.current:
                    self._try_again(sending.task, left)

    def _take(self, task: PoolTask, result: Result) -> bool:
        """Hand one result to its reader. True where the member does not know a z that this client has put."""
        if isinstance(result, UnknownZ) and task.work.z in self._zs:
            return True
        if isinstance(result, ZfleetError):
            task.take_back()
            self._end(task, result)
        else:
            task.put(result)
            if not task.left:
                self._end(task)
        return False

    async def _put_again(self, line: Line, tasks: Sequence[PoolTask]) -> None:
        """Give a member the z it lacks: it was replaced, or took this client for dead."""
        for digest in {task.work.z for task in tasks}:
            data = self._zs.get(digest)
            if data is not None:
                await line.call("hold_z", self._name, data)
                if digest not in self._zs:  # dropped on the way, perhaps before it was there
                    await line.call("release_z", self._name, digest)
        for task in tasks:
            self._try_again(task, UnknownZ(f"the pool keeps losing z {task.work.z[:12]!r}", "put it again"))

    def _try_again(self, task: PoolTask, reason: ZfleetError) -> None:
        if task.done:
            return
        task.take_back()
        if task.answered:
            self._end(task, reason)
        elif task.attempts == ATTEMPTS:
            self._end(task, EngineError(f"sent {ATTEMPTS} times in vain: {reason.message}", reason.remedy))
        else:
            self._send(task)

    def _end(self, task: PoolTask, error: ZfleetError | None = None) -> None:
        """Its end; a member that still works on it is told to stop."""
        if task.done:
            return
        sending = task.sending
        if sending is not None and task.left and sending.line.up:
            sending.line.stop(sending.name)
        task.end(error)
        self._tasks.discard(task)
