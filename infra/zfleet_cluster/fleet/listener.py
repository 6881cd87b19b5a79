"""The replica's end of the connections: it obeys the calls of clients with one engine."""

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
from zfleet_cluster.fleet.frames import encode, keep_alive, read_calls
from zfleet_cluster.fleet.messages import (
    AskErrors,
    AskStats,
    Call,
    CheckHealth,
    ChooseDirections,
    Done,
    DropZ,
    Errors,
    Failed,
    Generate,
    Hidden,
    Piece,
    PromptScored,
    PutZ,
    ReadHidden,
    Reply,
    Score,
    Scored,
    ScorePrompt,
    Stats,
    Stop,
)

_GREETING_SECONDS = 10.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where a replica listens.

    Attributes:
        replica: The name of one start of the replica; a replica that was started again has another name.
        host: The address of its node.
        port: The port, which the system chose.
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
        engine: Answers the requests.
        token: The secret of the fleet, in bytes, which each client must send first.

    Attributes:
        engine: The same engine.
        holders: How many clients hold each z, by digest.
        replica: See ``Address``.
    """

    def __init__(self, engine: Engine, token: bytes) -> None:
        self.engine = engine
        self.holders: Counter[str] = Counter()
        self.replica = uuid.uuid4().hex
        self._token = token
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self, host: str) -> Address:
        """Listen on a free port of one interface."""
        self._server = await asyncio.start_server(self._accept, host)
        port: int = self._server.sockets[0].getsockname()[1]
        return Address(self.replica, host, port, self.engine.max_length)

    async def close(self) -> None:
        """Stop to listen and end all connections; the engine goes on."""
        self._closed = True
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
            if self._closed:
                return  # the client connected just before ``close``
            keep_alive(writer)
            async with asyncio.timeout(_GREETING_SECONDS):
                token = await reader.readexactly(len(self._token))
            if hmac.compare_digest(token, self._token):
                await _Connection(self, reader, writer).serve()
            else:
                _LOG.warning("a client without the fleet's token was turned away")
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass  # it left, or it is no client of the fleet
        except asyncio.CancelledError:
            pass  # ``close`` cancelled it; asyncio's streams would log that as an error
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
        """Obey calls in order until the client leaves. Replies may come in another order."""
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

    async def _obey(self, call: Call | Failed) -> None:
        # The engine knows a z before the next call is read: requests follow the z that they use.
        match call:
            case Failed():  # the call could not be read, and this is the reply
                self._send(call)
            case PutZ():
                await self._put(call)
            case DropZ():
                await self._release(call.digest)
            case Stop():
                self._stop(call.number)
            case _:
                task = asyncio.create_task(self._answer(call))
                self._answering[call.number] = task
                # A callback, because a task that is cancelled before it begins runs none of its own code.
                task.add_done_callback(lambda _: self._answering.pop(call.number, None))

    async def _put(self, call: PutZ) -> None:
        try:
            z = ZVector.from_bytes(call.z, "the z sent to the engine")
            # Hold it before the engine has it, so that another client that drops it meanwhile is not the last holder.
            self._hold(z.digest)
            try:
                await self._engine.put_z(z)
            except BaseException:
                await self._release(z.digest)
                raise
            self._send(Done(call.number))
        except BaseException as error:
            self._fail(call.number, error)

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
                _described(error)  # logs it; nobody waits for an answer

    async def _answer(
        self,
        call: ChooseDirections | AskErrors | Generate | Score | ScorePrompt | ReadHidden | AskStats | CheckHealth,
    ) -> None:
        try:
            match call:
                case Score():
                    self._send(Scored(call.number, await self._engine.score_choices(call.request)))
                case ScorePrompt():
                    self._send(PromptScored(call.number, await self._engine.score_prompt(call.request)))
                case ReadHidden():
                    self._send(Hidden(call.number, await self._engine.hidden_state(call.request)))
                case ChooseDirections():
                    await self._engine.choose_directions(call.digests, call.again)
                    self._send(Done(call.number))
                case AskErrors():
                    self._send(Errors(call.number, await self._engine.truncation_errors()))
                case AskStats():
                    self._send(Stats(call.number, await self._engine.stats()))
                case CheckHealth():
                    await self._engine.check_health()
                    self._send(Done(call.number))
                case Generate():
                    # An engine takes two requests of one name for the same; clients may use the same names.
                    request = replace(call.request, request_id=f"{self._name}/{call.number}")
                    unended = request.sampling.n
                    async with closing(self._engine.generate(request)) as chunks:
                        async for chunk in chunks:
                            self._send(Piece(call.number, chunk))
                            unended -= chunk.finish_reason is not None
                            try:
                                # A client that reads slowly delays its own answers only.
                                await self._writer.drain()
                            except OSError:
                                return  # the client is gone
                    if unended:
                        raise EngineError("the engine ended the stream before all answers", "send the request again")
        except BaseException as error:
            self._fail(call.number, error)

    def _fail(self, number: int, error: BaseException) -> None:
        """Reply with an error. A cancellation goes on; if it came from the engine, the client must hear of it, too."""
        if isinstance(error, Exception):
            self._send(Failed.of(number, _described(error)))
        else:
            self._send(Failed.of(number, EngineError("the request was cancelled by its engine", "send it again")))
            raise error

    def _stop(self, number: int) -> None:
        if number in self._answering:
            self._answering[number].cancel()

    def _send(self, reply: Reply) -> None:
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(reply)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if not self._writer.is_closing():
            frames, failures = encode(outbox)
            self._writer.write(frames)
            if failures:
                for failed in failures:
                    _LOG.error("%s", failed.message)
                    self._stop(failed.number)
                self._writer.write(encode(failures)[0])


def _described(error: Exception) -> ZfleetError:
    """Describe an error for clients. Any but a ``ZfleetError`` is a defect: it is logged, and its text stays here."""
    if isinstance(error, ZfleetError):
        return error
    _LOG.error("a call to the engine failed", exc_info=error)
    return EngineError(
        f"the engine failed: {type(error).__name__}", "send the request again; the engine's log says more"
    )
