"""Who may run: answers wait, first come first served, until a slot and a row for their z are free."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from zfleet.engine.z_table import ZEntry, ZTable


@dataclass(eq=False)
class _Ticket:
    entry: ZEntry
    request_id: str
    row: asyncio.Future[int]


class Admission:
    """The queue in front of an engine that schedules by itself what it is given."""

    def __init__(self, table: ZTable, slots: int) -> None:
        self._table = table
        self._slots = slots
        self._waiting: deque[_Ticket] = deque()
        self.running = 0

    @property
    def waiting(self) -> int:
        """Answers that wait."""
        return len(self._waiting)

    async def enter(self, entry: ZEntry, request_id: str) -> int:
        """Wait for a slot; the row that holds the z until ``leave``.

        Raises:
            Exception: What ``refuse`` was given.
        """
        ticket = _Ticket(entry, request_id, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        self._admit()
        try:
            return await ticket.row
        except asyncio.CancelledError:
            # Cancelled in the very turn that admitted or refused it: what was given must be given back.
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            elif not ticket.row.cancelled() and ticket.row.exception() is None:
                self.leave(entry)
            raise

    def leave(self, entry: ZEntry) -> None:
        """One answer less."""
        self.running -= 1
        self._table.unpin(entry)
        self._admit()

    def refuse(self, error: Exception, request_id: str | None = None) -> None:
        """Raise an error in those that wait: of one request, or all."""
        for ticket in [t for t in self._waiting if request_id in (None, t.request_id)]:
            self._waiting.remove(ticket)
            if not ticket.row.done():
                ticket.row.set_exception(error)

    def _admit(self) -> None:
        # Past one that waits for a row only the base's go: any other would keep a row pinned that it waits for.
        row_wanted = False
        for ticket in list(self._waiting):
            if self.running >= self._slots:
                return
            # One that was cancelled stays in the queue until it hears of it.
            if ticket.row.done() or (row_wanted and ticket.entry.row != 0):
                continue
            row = self._table.pin(ticket.entry)
            if row is None:
                row_wanted = True
                continue
            self._waiting.remove(ticket)
            self.running += 1
            ticket.row.set_result(row)
