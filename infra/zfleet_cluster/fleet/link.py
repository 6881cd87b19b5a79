"""A client's connection to one replica."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from zfleet_cluster.fleet.listener import Address
from zfleet_cluster.fleet.messages import Call, Piece, Reply, Stop, encode, read_replies

_CONNECT_SECONDS = 10.0
_ALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
"""A node that vanishes closes no connection: the kernel asks it, and gives up after some twenty seconds."""

Receiver = Callable[[Reply], None]
_LOG = logging.getLogger(__name__)


class Link:
    """Sends calls to a replica and hands its replies to whoever made each call.

    Attributes:
        address: Of the replica.
        load: Answers under way here, for this client.
    """

    def __init__(self, address: Address, on_lost: Callable[[Link], None]) -> None:
        """Connect to nothing yet.

        Args:
            address: Where the replica listens.
            on_lost: Called once, when the connection ends for any reason but ``close``.
        """
        self.address = address
        self.load = 0
        self._on_lost = on_lost
        self._numbers = 0
        self._receivers: dict[int, Receiver] = {}
        self._outbox: list[Call] = []
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self, token: bytes) -> None:
        """Connect, and read from then on.

        Raises:
            OSError, TimeoutError: Nobody listens there.
        """
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _ALIVE.items():
            if hasattr(socket, option):  # Linux has all of them
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        writer.write(token)
        self._writer = writer
        self._reading = asyncio.create_task(self._read(reader))

    def call(self, build: Callable[[int], Call], receiver: Receiver) -> int:
        """Send a call that is answered.

        Args:
            build: Makes the call from its number.
            receiver: Gets each reply.

        Returns:
            Its number on this connection, for ``stop`` and ``finish``.
        """
        self._numbers += 1
        self._receivers[self._numbers] = receiver
        self.tell(build(self._numbers))
        return self._numbers

    def tell(self, call: Call) -> None:
        """Send a call that is not answered."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(call)

    def finish(self, number: int) -> None:
        """Expect nothing more of a request whose answers have all ended."""
        self._receivers.pop(number, None)

    def stop(self, number: int) -> None:
        """End a request that has not ended."""
        if self._receivers.pop(number, None) is not None:
            self.tell(Stop(number))

    async def close(self) -> None:
        """End the connection; the replica ends what it does for it. Idempotent."""
        reading, self._reading = self._reading, None
        if reading is not None:
            self._flush()
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if outbox and self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(outbox))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                for reply in await read_replies(reader):
                    # A request may have several pieces; every other reply is the only one. Replies to requests that
                    # were stopped may still be on their way.
                    if isinstance(reply, Piece):
                        receiver = self._receivers.get(reply.number)
                    else:
                        receiver = self._receivers.pop(reply.number, None)
                    if receiver is not None:
                        receiver(reply)
        except ConnectionError:
            pass
        except Exception:
            _LOG.exception("a reply of a replica could not be handed on; the connection is begun again")
        finally:
            if self._writer is not None:
                self._writer.close()
            if self._reading is not None:
                self._on_lost(self)
