"""The replica's end of the connections: clients put z-vectors and ask, one engine answers."""

from __future__ import annotations

import asyncio
import hmac
import logging
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace

from zfleet.engine.contract import Engine
from zfleet.engine.streams import closing
from zfleet.errors import EngineError, UnknownZ, ZfleetError
from zfleet.svf.zvector import ZVector
from zfleet_cluster.fleet.messages import (
    AskStats,
    Call,
    CheckHealth,
    Done,
    DropZ,
    Failed,
    Generate,
    Piece,
    PutZ,
    Reply,
    Score,
    Scored,
    Stats,
    Stop,
    encode,
    read_calls,
)

_GREETING_SECONDS = 10.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where a replica listens.

    Attributes:
        replica: Names one start of the replica: one that comes back has another name.
        host: Of its node.
        port: Chosen by the system.
        max_length: The longest prompt and answer together that its engine takes, in tokens.
    """

    replica: str
    host: str
    port: int
    max_length: int


class Listener:
    """Answers the clients of one engine.

    A client holds the z-vectors that it puts for as long as it is connected: the engine forgets a z when the last
    client that holds it has dropped it or is gone.

    Args:
        engine: Answers.
        token: Each client must present it first: 32 bytes.
    """

    def __init__(self, engine: Engine, token: bytes) -> None:
        self.engine = engine
        self.holders: Counter[str] = Counter()
        self.replica = uuid.uuid4().hex
        self._token = token
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str) -> Address:
        """Listen on a free port of one interface."""
        self._server = await asyncio.start_server(self._accept, host)
        port: int = self._server.sockets[0].getsockname()[1]
        return Address(self.replica, host, port, self.engine.max_length)

    async def close(self) -> None:
        """Accept nobody any more and end all connections; the engine goes on."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            async with asyncio.timeout(_GREETING_SECONDS):
                token = await reader.readexactly(len(self._token))
            if hmac.compare_digest(token, self._token):
                await _Connection(self, reader, writer).serve()
            else:
                _LOG.warning("a client without the fleet's token was turned away")
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass  # it left, or never was a client
        except asyncio.CancelledError:
            pass  # by ``close``: asyncio's streams would log it as an error
        except Exception:
            _LOG.exception("a connection of the fleet broke; its client connects again")
        finally:
            self._connections.discard(task)
            writer.close()


class _Connection:
    """One client."""

    def __init__(self, listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listener = listener
        self._engine = listener.engine
        self._reader = reader
        self._writer = writer
        self._outbox: list[Reply] = []
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._held: set[str] = set()
        self._name = uuid.uuid4().hex

    async def serve(self) -> None:
        """Obey calls in their order until the client leaves; answers overtake each other."""
        try:
            while True:
                try:
                    calls = await read_calls(self._reader)
                except ConnectionError:
                    return
                for call in calls:
                    await self._obey(call)
        finally:
            for task in self._answering.values():
                task.cancel()
            for digest in list(self._held):
                await self._release(digest)

    async def _obey(self, call: Call) -> None:
        # A z is known before the next call is looked at: requests follow the z that they use.
        match call:
            case PutZ():
                await self._put(call)
            case DropZ():
                await self._release(call.digest)
            case Stop():
                if call.number in self._answering:
                    self._answering[call.number].cancel()
            case _:
                task = asyncio.create_task(self._answer(call))
                self._answering[call.number] = task
                # Not at the end of the task's own code: one that is cancelled before it begins runs none.
                task.add_done_callback(lambda _: self._answering.pop(call.number))

    async def _put(self, call: PutZ) -> None:
        try:
            z = ZVector.from_bytes(call.z, "the z sent to the engine")
            # Held before the engine has it: another client that drops the same z meanwhile must not be the last.
            self._hold(z.digest)
            try:
                await self._engine.put_z(z)
            except BaseException:
                await self._release(z.digest)
                raise
        except Exception as error:
            self._send(Failed.of(call.number, _described(error)))
            return
        self._send(Done(call.number))

    def _hold(self, digest: str) -> None:
        if digest not in self._held:
            self._held.add(digest)
            self._listener.holders[digest] += 1

    async def _release(self, digest: str) -> None:
        if digest not in self._held:
            return
        self._held.discard(digest)
        self._listener.holders[digest] -= 1
        if not self._listener.holders[digest]:
            del self._listener.holders[digest]
            try:
                with suppress(UnknownZ):
                    await self._engine.drop_z(digest)
            except Exception as error:
                _described(error)

    async def _answer(self, call: Generate | Score | AskStats | CheckHealth) -> None:
        try:
            match call:
                case Score():
                    self._send(Scored(call.number, await self._engine.score(call.request)))
                case AskStats():
                    self._send(Stats(call.number, await self._engine.stats()))
                case CheckHealth():
                    await self._engine.check_health()
                    self._send(Done(call.number))
                case Generate():
                    # An engine takes two requests of one name for the same; clients may use the same names.
                    request = replace(call.request, request_id=f"{self._name}/{call.number}")
                    async with closing(self._engine.generate(request)) as chunks:
                        async for chunk in chunks:
                            self._send(Piece(call.number, chunk))
                            # A client that reads too slowly holds up its own answers alone.
                            await self._writer.drain()
        except OSError:
            pass  # the client is gone: ``serve`` ends, too
        except Exception as error:
            self._send(Failed.of(call.number, _described(error)))

    def _send(self, reply: Reply) -> None:
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(reply)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if not self._writer.is_closing():
            self._writer.write(encode(outbox))


def _described(error: Exception) -> ZfleetError:
    """The error as a client may see it; what zfleet did not raise on purpose goes to the log."""
    if isinstance(error, ZfleetError):
        return error
    _LOG.error("a call to the engine failed", exc_info=error)
    return EngineError(
        f"the engine failed: {type(error).__name__}", "send the request again; the engine's log says more"
    )
