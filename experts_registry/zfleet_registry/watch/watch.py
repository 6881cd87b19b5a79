"""Follow the logs of a registry: ask what is new each second, and at once after a webhook.

The logs decide what changed; a webhook only says when to look. So a webhook that is lost, late, sent again or forged
changes nothing but the time at which a change is noticed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from zfleet.errors import RegistryUnreachable
from zfleet_registry.connect import Connection
from zfleet_registry.log import Entry, ExpertLog, newest_entries
from zfleet_registry.watch.cursor import Cursor

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks. A change is noticed within two, the time of the look included."""

_SWEEP_SECONDS = 60.0
"""How often all logs are looked at, not only those with the newest times: the clocks of writers may differ."""


class Watch(Iterator[Entry]):
    """The changes of a registry, as they come: new versions, moves of aliases, traffic. One thread iterates.

    An entry is recorded in the log before its alias moves in MLflow, milliseconds later: take the version from the
    entry, not from the alias.

    Args:
        connection: The registry.
        since: Where to begin; None: with what changes from now on.

    Raises:
        RegistryUnreachable: The registry does not answer now. Later the watch waits for it.
    """

    def __init__(self, connection: Connection, since: Cursor | None = None) -> None:
        self._connection = connection
        if since is None:
            pages = newest_entries(connection, everything=True)
            since = Cursor({expert: number for page in pages for expert, number in page.items()})
        self._read = dict(since.entries)
        self._closing: list[Callable[[], None]] = []
        self._wake = threading.Event()
        self._closed = False
        self._entries = self._follow()

    @property
    def cursor(self) -> Cursor:
        """How far it has read: a watch that begins here continues after the last entry that this one returned."""
        return Cursor(dict(self._read))

    def wake(self) -> None:
        """Look now. Any thread may call this."""
        self._wake.set()

    def close(self) -> None:
        """End the iteration. Any thread may call this, several times."""
        self._closed = True
        self._wake.set()
        while self._closing:
            self._closing.pop()()

    def on_close(self, call: Callable[[], None]) -> None:
        """Have ``close`` call this."""
        self._closing.append(call)

    def __next__(self) -> Entry:
        return next(self._entries)

    def _follow(self) -> Iterator[Entry]:
        failures, swept = 0, -_SWEEP_SECONDS
        while not self._closed:
            self._wake.clear()
            began = time.monotonic()
            everything = began - swept >= _SWEEP_SECONDS
            try:
                yield from self._look(everything)
            except RegistryUnreachable as error:
                failures += 1
                # A database file that is busy for a moment is not news.
                if failures == 2:
                    logger.warning("%s: waiting; changes made meanwhile will follow", error.message)
            else:
                if failures > 1:
                    logger.warning("the registry %s answers again", self._connection.address)
                failures, swept = 0, began if everything else swept
            # After a moment in which a file was busy, a whole interval would make the change late.
            self._wake.wait(INTERVAL / 4 if failures == 1 else INTERVAL)

    def _look(self, everything: bool) -> Iterator[Entry]:
        """Yield what is new. Logs come with the newest time first, so the first page without news ends a quick look."""
        for page in newest_entries(self._connection, everything=everything):
            news = {expert: number for expert, number in page.items() if number != self._read.get(expert, 0)}
            for expert, number in news.items():
                yield from self._read_log(expert, number)
            if not news and not everything:
                return

    def _read_log(self, expert: str, newest: int) -> Iterator[Entry]:
        read = self._read.get(expert, 0)
        if newest < read:
            logger.warning(
                "the log of %s has %d entries, but %d were read: some were removed, or the expert was deleted and made "
                "anew; all of them follow (`zfleet experts history %s` checks the log)",
                expert,
                newest,
                read,
                expert,
            )
            read = self._read[expert] = 0
        for entry in ExpertLog(self._connection, expert).entries(after=read):
            if self._closed:
                return
            self._read[expert] = entry.number
            if not isinstance(entry, Entry):
                logger.warning("entry %d of the log of %s is left out: %s", entry.number, expert, entry.reason)
            elif entry.is_change:
                yield entry
