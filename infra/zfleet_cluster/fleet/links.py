"""The links of a client to all replicas of its fleet, kept up by a supervised loop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from zfleet.errors import ZfleetError
from zfleet.supervise import HANG_SECONDS, WorkLoop, guarded
from zfleet_cluster.fleet.link import Link
from zfleet_cluster.fleet.listener import Address

LOOK_SECONDS = 1.0
"""How often the client looks for replicas that joined or left; it looks at once when it has lost one."""
LOOK_AGAIN_SECONDS = 0.1
"""How soon it looks again while it has no replica, or has just lost one."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """The replicas of a fleet at one moment.

    Attributes:
        addresses: The addresses of those that answer.
        failure: Why none answers and none will, if that is known.
    """

    addresses: tuple[Address, ...]
    failure: ZfleetError | None = None


class Replicas(Protocol):
    """Whoever holds the replicas of a fleet."""

    async def find(self) -> Found:
        """Find the replicas that answer now, without waiting for one that is starting."""


class Owner(Protocol):
    """What a client does when its links change."""

    def joined(self, link: Link) -> None:
        """Called when a replica can be used."""

    def lost(self, link: Link) -> None:
        """Called when the connection to a replica has ended."""

    def unreachable(self, error: ZfleetError) -> None:
        """Called when there is no replica, with the reason why none can be found."""


class Links:
    """Looks for replicas, and links the client to each of them for as long as they live."""

    def __init__(self, replicas: Replicas, token: bytes, owner: Owner) -> None:
        """Prepare a loop, which ``start`` starts.

        Args:
            replicas: Finds the replicas.
            token: The secret of the fleet.
            owner: Hears of changes.
        """
        self._replicas = replicas
        self._token = token
        self._owner = owner
        self._links: dict[str, Link] = {}
        self._leaving: set[str] = set()
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._look = asyncio.Event()
        self._loop = WorkLoop("the search for replicas", self._look_around, self._fail)

    def start(self) -> None:
        """Start the loop in the running event loop, if it does not run.

        Raises:
            EngineError: The loop was stopped, or died.
        """
        self._loop.wake()

    def check(self) -> None:
        """Check that the loop works.

        Raises:
            EngineError: It is dead, keeps failing, or hangs.
        """
        self._loop.check()

    def all(self) -> list[Link]:
        """Return the links to all replicas that are connected."""
        return list(self._links.values())

    def usable(self) -> list[Link]:
        """Return the links for new requests: no replica that is leaving, unless there is no other."""
        return [link for name, link in self._links.items() if name not in self._leaving] or self.all()

    async def close(self) -> None:
        """End the loop and all connections. Idempotent."""
        await self._loop.stop()
        connecting = list(self._connecting.values())
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        links, self._links = self.all(), {}
        await asyncio.gather(*(link.close() for link in links))

    async def _look_around(self) -> bool:
        self._look.clear()
        async with asyncio.timeout(HANG_SECONDS):
            found = await self._replicas.find()
        self._loop.count_success()
        self._leaving = self._links.keys() - {address.replica for address in found.addresses}
        for address in found.addresses:
            if address.replica not in self._links and address.replica not in self._connecting:
                self._connecting[address.replica] = asyncio.create_task(self._connect(address))
        for link in self.all():
            link.check()
        if found.failure is not None and not self._links:
            self._owner.unreachable(found.failure)
        try:
            async with asyncio.timeout(LOOK_SECONDS if self._links else LOOK_AGAIN_SECONDS):
                await self._look.wait()
            # A replica that was lost a moment ago may still be on the list of those that answer.
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        except TimeoutError:
            pass
        return True

    async def _connect(self, address: Address) -> None:
        """Link the client to a replica. A replica that does not answer is found and tried again."""
        link = Link(address, self._lose)
        try:
            with guarded("a connection to a replica"):
                try:
                    await link.connect(self._token)
                except (OSError, TimeoutError, ZfleetError) as error:
                    _LOG.info("replica %s cannot be used: %s", address, error)
                    return
                self._links[address.replica] = link
                self._owner.joined(link)
        finally:
            self._connecting.pop(address.replica, None)

    def _lose(self, link: Link) -> None:
        self._links.pop(link.address.replica, None)
        self._look.set()
        self._owner.lost(link)

    def _fail(self, error: ZfleetError) -> None:
        if not self._links:
            self._owner.unreachable(error)
