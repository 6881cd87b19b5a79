"""The z-vectors that a client holds on every replica of its fleet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from zfleet.errors import UnknownZ, ZfleetError
from zfleet.svf.zvector import ZVector
from zfleet_cluster.fleet.link import Link
from zfleet_cluster.fleet.messages import DropZ, Failed, PutZ, Reply

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _HeldZ:
    """A z that this client put and did not drop.

    Attributes:
        digest: Its digest.
        data: What ``ZVector.to_bytes`` wrote.
        known: Resolved when the first replica knows the z, or none will.
        asked: Links to replicas that have not replied yet.
        refusals: Why a replica does not take it.
    """

    digest: str
    data: bytes
    known: asyncio.Future[None]
    asked: set[Link] = field(default_factory=set)
    refusals: dict[Link, ZfleetError] = field(default_factory=dict)


class HeldZs:
    """Sends every z to every replica once, and again to a replica that joins or has forgotten it."""

    def __init__(self, links: Callable[[], list[Link]]) -> None:
        """Hold nothing.

        Args:
            links: Gives the links to all replicas.
        """
        self._links = links
        self._held: dict[str, _HeldZ] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._held

    async def put(self, z: ZVector, seconds: float, late: ZfleetError) -> None:
        """Return when the first replica knows a z. Nothing is sent for a z that is held.

        Args:
            z: The z.
            seconds: How long to wait for a replica.
            late: Raised after that time, for all who wait for this z.

        Raises:
            ZfleetError: No replica took the z, or it was dropped meanwhile; it is not held.
        """
        held = self._held.get(z.digest)
        if held is None:
            held = _HeldZ(z.digest, z.to_bytes(), asyncio.get_running_loop().create_future())
            self._held[z.digest] = held
            for link in self._links():
                self._send(link, held)
        # Unlike awaiting the future, this leaves it to the others who wait when one of them is cancelled.
        await asyncio.wait([held.known], timeout=seconds)
        if not held.known.done():
            self._give_up(held, late)
        held.known.result()

    def drop(self, digest: str) -> None:
        """Forget a z, and have every replica forget it.

        Raises:
            UnknownZ: It is not held.
        """
        if digest not in self._held:
            raise UnknownZ(f"this client of the fleet did not put z {digest[:12]!r}", "give it to put_z first")
        self._give_up(self._held[digest], UnknownZ(f"z {digest[:12]} was dropped while it was put", "put it again"))

    def send_all(self, link: Link) -> None:
        """Send every z to a replica that joins."""
        for held in list(self._held.values()):
            self._send(link, held)

    def send_again(self, link: Link, digest: str) -> None:
        """Send a z to a replica that has forgotten it, because its engine was started again for example."""
        self._send(link, self._held[digest])

    def refused_by(self, link: Link, digest: str) -> bool:
        """Whether a replica has refused a z that is held."""
        return digest in self._held and link in self._held[digest].refusals

    def lost(self, link: Link) -> None:
        """Expect no more replies over a link."""
        for held in list(self._held.values()):
            held.asked.discard(link)
            self._check(held)
            held.refusals.pop(link, None)

    def fail_waiting(self, error: ZfleetError) -> None:
        """Fail everybody who waits for a z, and forget it."""
        for held in list(self._held.values()):
            if not held.known.done():
                self._give_up(held, error)

    def _send(self, link: Link, held: _HeldZ) -> None:
        held.asked.add(link)
        link.call(lambda number: PutZ(number, held.data), partial(self._take_reply, held, link))

    def _take_reply(self, held: _HeldZ, link: Link, reply: Reply) -> None:
        held.asked.discard(link)
        if isinstance(reply, Failed):
            held.refusals[link] = reply.error
            if held.known.done() and self._held.get(held.digest) is held:
                _LOG.warning("replica %s refuses a z that another one took: %s", link.address, reply.error)
        else:
            held.refusals.pop(link, None)
            if not held.known.done():
                held.known.set_result(None)
        self._check(held)

    def _check(self, held: _HeldZ) -> None:
        """Give up a z that every replica has refused."""
        if held.refusals and not held.asked and not held.known.done():
            self._give_up(held, next(iter(held.refusals.values())))

    def _give_up(self, held: _HeldZ, error: ZfleetError) -> None:
        if self._held.get(held.digest) is held:
            del self._held[held.digest]
            for link in self._links():
                link.tell(DropZ(held.digest))
        if not held.known.done():
            held.known.set_exception(error)
            held.known.exception()  # whoever waited may have left
