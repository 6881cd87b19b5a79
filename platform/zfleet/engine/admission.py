"""Admission: answers wait, first come first served, until a slot and a row for their z are free."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from zfleet.engine.z_table import ZEntry, ZTable
from zfleet.errors import EngineError, ZfleetError
from zfleet.supervise import guarded


class Ticket(Protocol):
    """A piece of work that waits."""

    @property
    def entry(self) -> ZEntry:
        """The z that it runs under."""

    @property
    def slots(self) -> int:
        """Slots that it takes while it runs: 1, or 0 if it needs a row only."""


T = TypeVar("T", bound=Ticket)


class Admission(Generic[T]):
    """The queue in front of an engine. The engine asks which tickets may run.

    Attributes:
        running: Slots taken.
    """

    def __init__(self, table: ZTable, slots: int) -> None:
        self.running = 0
        self._table = table
        self._slots = slots
        self._waiting: deque[T] = deque()
        self._without_slot = 0

    @property
    def waiting(self) -> int:
        """Number of tickets that wait."""
        return len(self._waiting)

    def queue(self, tickets: Iterable[T]) -> None:
        """Add tickets at the end."""
        for ticket in tickets:
            self._waiting.append(ticket)
            self._without_slot += not ticket.slots

    def admit(self, fits: Callable[[T], bool]) -> Iterator[T]:
        """Take out of the queue, one by one, the tickets that may run now.

        Each holds its slots and its row until ``leave``. Behind a ticket that waits for a row, admit only tickets of
        the base: others could pin the row that it needs.

        Args:
            fits: Whether the engine can take this ticket now. Asked at most once for each ticket that finds a slot.
        """
        row_awaited = False
        for ticket in list(self._waiting):
            if self.running + ticket.slots > self._slots:
                if not self._without_slot:
                    return
                continue
            if (row_awaited and ticket.entry.row != 0) or not fits(ticket):
                continue
            if self._table.pin(ticket.entry) is None:
                row_awaited = True
                continue
            self._remove(ticket)
            self.running += ticket.slots
            yield ticket

    def leave(self, entry: ZEntry, slots: int = 1) -> None:
        """Free the slots and the row of a ticket that ran."""
        self.running -= slots
        self._table.unpin(entry)

    def withdraw(self, chosen: Callable[[T], bool]) -> list[T]:
        """Take the chosen tickets out of the queue; they will not run."""
        withdrawn = [ticket for ticket in self._waiting if chosen(ticket)]
        for ticket in withdrawn:
            self._remove(ticket)
        return withdrawn

    def reset(self) -> None:
        """Free all slots and rows, after a failure that ended everything."""
        self.running = 0
        self._table.release_all()

    def _remove(self, ticket: T) -> None:
        self._waiting.remove(ticket)
        self._without_slot -= not ticket.slots


@dataclass(eq=False)
class _AwaitedTicket:
    entry: ZEntry
    request_id: str
    row: asyncio.Future[int]
    slots: int = 1


class AwaitedAdmission:
    """Admission for an engine with a scheduler of its own, such as vLLM: each answer awaits its row."""

    def __init__(self, table: ZTable, slots: int) -> None:
        self._admission: Admission[_AwaitedTicket] = Admission(table, slots)
        self._broken: ZfleetError | None = None
        self._emptied: asyncio.Future[None] | None = None

    @property
    def running(self) -> int:
        """Number of answers that hold a slot."""
        return self._admission.running

    @property
    def waiting(self) -> int:
        """Number of answers that wait."""
        return self._admission.waiting

    async def enter(self, entry: ZEntry, request_id: str) -> int:
        """Wait for a slot and a row. Returns the row, which holds the z until ``leave``.

        Raises:
            EngineError: A row could not be assigned or freed.
            Exception: The error given to ``refuse``.
        """
        self.check()
        ticket = _AwaitedTicket(entry, request_id, asyncio.get_running_loop().create_future())
        self._admission.queue([ticket])
        self._admit()
        try:
            return await ticket.row
        except asyncio.CancelledError:
            # If it was admitted in the same iteration of the event loop, give its slot and row back.
            waited = self._admission.withdraw(lambda other: other is ticket)
            if not waited and not ticket.row.cancelled() and ticket.row.exception() is None:
                self.leave(entry)
            raise

    def leave(self, entry: ZEntry) -> None:
        """Free the slot and the row of an answer that ran."""
        with guarded("freeing a row of the z table", self._break):
            self._admission.leave(entry)
        self._admit()

    @asynccontextmanager
    async def empty(self) -> AsyncIterator[None]:
        """Admit nothing until the block has ended. It begins when all that were admitted have left.

        Only one block may be open at a time.
        """
        assert self._emptied is None
        self._emptied = asyncio.get_running_loop().create_future()
        try:
            if self.running:
                await self._emptied
            yield
        finally:
            self._emptied = None
            self._admit()

    def refuse(self, error: Exception, request_id: str | None = None) -> None:
        """Raise an error in the waiting answers of one request, or in all."""
        for ticket in self._admission.withdraw(lambda ticket: request_id in (None, ticket.request_id)):
            if not ticket.row.done():
                ticket.row.set_exception(error)

    def check(self) -> None:
        """Check the counts of slots and rows.

        Raises:
            EngineError: A row could not be freed: requests could wait for it for ever.
        """
        if self._broken is not None:
            raise EngineError(self._broken.message, self._broken.remedy)

    def _admit(self) -> None:
        if self._emptied is not None:
            if not self.running and not self._emptied.done():
                self._emptied.set_result(None)
            return
        with guarded("admitting requests", self.refuse):
            # A cancelled ticket stays in the queue until its request handles the cancellation.
            for ticket in self._admission.admit(lambda ticket: not ticket.row.done()):
                assert ticket.entry.row is not None
                ticket.row.set_result(ticket.entry.row)

    def _break(self, error: ZfleetError) -> None:
        self._broken = error
        self.refuse(error)
