"""A client's connection to one replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from zfleet.supervise import HANG_SECONDS, guarded
from zfleet_cluster.fleet.frames import encode, keep_alive, read_replies
from zfleet_cluster.fleet.listener import Address
from zfleet_cluster.fleet.messages import Call, CheckHealth, Failed, Piece, Reply, Stop

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0
"""A replica that owes an answer and has said nothing for so long is asked whether it is well."""

Receiver = Callable[[Reply], None]


class Link:
    """Sends calls to a replica and hands its replies to the receiver of each call.

    Attributes:
        address: The address of the replica.
        load: Answers under way here, for this client.
    """

    def __init__(self, address: Address, on_lost: Callable[[Link], None]) -> None:
        """Prepare a link that is not connected.

        Args:
            address: Where the replica listens.
            on_lost: Called once if the connection ends after ``connect``, for any reason but ``close``.
        """
        self.address = address
        self.load = 0
        self._on_lost = on_lost
        self._connected = False
        self._numbers = 0
        self._receivers: dict[int, Receiver] = {}
        self._outbox: list[Call] = []
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._heard = 0.0
        self._checked: float | None = None

    async def connect(self, token: bytes) -> None:
        """Connect, and return when the replica has said that it is well.

        Raises:
            OSError, TimeoutError: Nobody listens there, or whoever listens does not answer.
            ZfleetError: The replica says why it is not well.
        """
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, self._writer = await asyncio.open_connection(self.address.host, self.address.port)
        keep_alive(self._writer)
        self._writer.write(token)
        well: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(reader))
        self.call(CheckHealth, lambda reply: None if well.done() else well.set_result(reply))
        try:
            either: list[asyncio.Future[Any]] = [well, self._reading]
            await asyncio.wait(either, timeout=HANG_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not well.done() or self._reading.done():
                raise ConnectionError(f"the replica at {self.address.host}:{self.address.port} does not answer")
            if isinstance(reply := well.result(), Failed):
                raise reply.error
            self._connected = True
        finally:
            if not self._connected:
                await self.close()

    def call(self, build: Callable[[int], Call], receiver: Receiver) -> int:
        """Send a call that is answered.

        Args:
            build: Makes the call from its number.
            receiver: Gets each reply.

        Returns:
            The number of the call on this connection, for ``stop`` and ``finish``.
        """
        if not self._receivers:
            self._heard = asyncio.get_running_loop().time()
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
        """Expect no more replies to a request whose answers have all ended."""
        self._receivers.pop(number, None)

    def stop(self, number: int) -> None:
        """End a request that has not ended."""
        if self._receivers.pop(number, None) is not None:
            self.tell(Stop(number))

    def check(self) -> None:
        """Break the connection if the replica owes an answer and does not say that it is well. Call it regularly."""
        now = asyncio.get_running_loop().time()
        if self._checked is not None:
            if now - self._checked > HANG_SECONDS:
                self._break()
        elif self._receivers and now - self._heard > SILENT_SECONDS:
            self._checked = now
            self.call(CheckHealth, self._take_health)

    async def close(self) -> None:
        """End the connection; the replica ends this client's requests. Idempotent."""
        self._connected = False
        if self._reading is not None:
            self._flush()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()

    def _take_health(self, reply: Reply) -> None:
        self._checked = None
        if isinstance(reply, Failed):
            self._break()

    def _break(self) -> None:
        """End the connection from this side, as if it were lost."""
        if self._writer is not None:
            self._writer.transport.abort()

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if outbox and self._writer is not None and not self._writer.is_closing():
            frames, failures = encode(outbox)
            self._writer.write(frames)
            for failed in failures:
                with guarded("a link of the fleet"):
                    self._hand_on(failed)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            with guarded("a link of the fleet"):
                while True:
                    try:
                        replies = await read_replies(reader)
                    except ConnectionError:
                        return
                    self._heard = asyncio.get_running_loop().time()
                    for reply in replies:
                        self._hand_on(reply)
        finally:
            if self._writer is not None:
                self._writer.close()
            if self._connected:
                self._connected = False
                self._on_lost(self)

    def _hand_on(self, reply: Reply) -> None:
        # A request may have several pieces; any other reply is the only one. Replies to requests that were stopped may
        # still be on their way.
        if isinstance(reply, Piece):
            receiver = self._receivers.get(reply.number)
        else:
            receiver = self._receivers.pop(reply.number, None)
        if receiver is not None:
            receiver(reply)
