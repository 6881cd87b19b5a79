"""A request under way through the pool, whichever member answers it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from zfleet.engine.contract import Chunk, GenerationRequest
from zfleet.errors import ZfleetError
from zfleet_cluster.fleet.link import Line
from zfleet_cluster.fleet.replica import Work


@dataclass(eq=False)
class PoolTask:
    """One request and its reader.

    Attributes:
        work: What was asked.
        left: Answers that have not come to their end.
        attempts: How often it was sent.
        answered: Whether anything arrived: then it cannot be sent again.
        sending: The present one.
        done: Nothing more will be put.
    """

    work: Work
    left: int
    attempts: int = 0
    answered: bool = False
    sending: Sending | None = None
    done: bool = False
    _arrived: asyncio.Queue[Chunk | tuple[float, ...] | ZfleetError] = field(default_factory=asyncio.Queue)

    @property
    def request_id(self) -> str | None:
        """The caller's name for it; a score has none."""
        return self.work.request_id if isinstance(self.work, GenerationRequest) else None

    async def next(self) -> Chunk | tuple[float, ...]:
        """What arrived next; an error is raised."""
        item = await self._arrived.get()
        if isinstance(item, ZfleetError):
            raise item
        return item

    def put(self, item: Chunk | tuple[float, ...]) -> None:
        """Hand on what arrived."""
        self.answered = True
        self.left -= isinstance(item, tuple) or item.finish_reason is not None
        self._arrived.put_nowait(item)

    def send(self, line: Line, name: str) -> Sending:
        """Begin to send it to a member.

        Args:
            name: Names this sending; no other client of the member uses it.
        """
        self.attempts += 1
        line.load += self.left
        self.sending = Sending(self, line, name, self.left)
        return self.sending

    def take_back(self) -> None:
        """End its sending: nothing is expected of it any more."""
        if self.sending is not None:
            self.sending.line.load -= self.sending.answers
            self.sending = None

    def end(self, error: ZfleetError | None = None) -> None:
        """Its end; the reader is told of an error."""
        self.take_back()
        self.done = True
        if error is not None:
            self._arrived.put_nowait(error)


@dataclass(eq=False)
class Sending:
    """A task on its way to one member.

    Attributes:
        task: The request.
        line: To the member.
        name: What the member calls it.
        answers: How many it was to give.
    """

    task: PoolTask
    line: Line
    name: str
    answers: int

    @property
    def current(self) -> bool:
        """Whether anybody still waits for what this sending gives."""
        return self.task.sending is self

    @property
    def message(self) -> tuple[str, Work]:
        """What the member gets. Engines take one request's name for another's that has the same."""
        work = self.task.work
        return self.name, replace(work, request_id=self.name) if isinstance(work, GenerationRequest) else work
