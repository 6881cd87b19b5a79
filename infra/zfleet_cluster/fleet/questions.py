"""A client's questions to all replicas at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from zfleet.engine.contract import EngineStats
from zfleet.errors import EngineError
from zfleet_cluster.fleet.link import Link
from zfleet_cluster.fleet.messages import Call, Failed, Reply

R = TypeVar("R")

_LATE_SECONDS = 1.0
"""How long a question to all replicas waits for the others when one has answered."""


class Questions:
    """Asks every replica, and gives up those that are lost meanwhile."""

    def __init__(self, links: Callable[[], list[Link]], wait_seconds: float) -> None:
        """Ask nothing yet.

        Args:
            links: Gives the links to all replicas.
            wait_seconds: How long a question waits while no replica answers.
        """
        self._links = links
        self._wait_seconds = wait_seconds
        self._asked: dict[asyncio.Future[Reply], Link] = {}
        self._closed = False

    async def ask(self, build: Callable[[int], Call], kind: type[R]) -> list[R]:
        """Ask all replicas; return the answers until shortly after the first.

        Args:
            build: Makes the call from its number.
            kind: What an answer is; any other reply is none.

        Raises:
            EngineError: No replica answers, or ``close`` was called.
            ZfleetError: The error of a replica, if none gives an answer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_seconds
        while not self._links():
            self._check_open()
            if loop.time() > deadline:
                raise nobody(self._wait_seconds)
            await asyncio.sleep(0.01)
        asked: dict[asyncio.Future[Reply], Link] = {loop.create_future(): link for link in self._links()}
        self._asked |= asked
        for reply, link in asked.items():
            link.call(build, partial(_resolve, reply))
        waiting, replies = set(asked), list[Reply]()
        try:
            while waiting and (seconds := deadline - loop.time()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                replies += [reply.result() for reply in done if not reply.cancelled()]
                if any(isinstance(reply, kind) for reply in replies):
                    deadline = min(deadline, loop.time() + _LATE_SECONDS)
        finally:
            for reply in asked:
                del self._asked[reply]
        self._check_open()
        answers: list[R] = [reply for reply in replies if isinstance(reply, kind)]
        if not answers:
            raise next((reply.error for reply in replies if isinstance(reply, Failed)), nobody(self._wait_seconds))
        return answers

    def lost(self, link: Link) -> None:
        """Expect no more replies over a link."""
        for reply, asked in self._asked.items():
            if asked is link:
                reply.cancel()

    def close(self) -> None:
        """End all questions."""
        self._closed = True
        for reply in self._asked:
            reply.cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise closed()


def nobody(wait_seconds: float) -> EngineError:
    """Describe that no replica answered."""
    return EngineError(
        f"no replica of the engine answered within {wait_seconds:g} s",
        "send the request again; the logs of the replicas say why they do not start",
    )


def closed() -> EngineError:
    """Describe a call of a closed client."""
    return EngineError("the engine is closed", "open another one and send the request again")


def _resolve(future: asyncio.Future[Reply], reply: Reply) -> None:
    if not future.done():
        future.set_result(reply)


def total_stats(each: Sequence[EngineStats], unsent: int) -> EngineStats:
    """Sum up the counters of replicas; a z counts once, and peaks are those of the busiest replica.

    Args:
        each: Of each replica; one or more.
        unsent: Requests that wait for a replica.
    """
    return EngineStats(
        running=sum(stats.running for stats in each),
        waiting=sum(stats.waiting for stats in each) + unsent,
        known_z=max(stats.known_z for stats in each),
        resident_z=sum(stats.resident_z for stats in each),
        table_rows=sum(stats.table_rows for stats in each),
        generated_tokens=sum(stats.generated_tokens for stats in each),
        peak_batch=max(stats.peak_batch for stats in each),
        peak_distinct_z=max(stats.peak_distinct_z for stats in each),
    )
