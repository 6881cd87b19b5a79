"""What a client of the fleet and a replica say to each other.

A connection carries frames: four bytes of length (big-endian), then a list of messages in MessagePack. All that is
ready in one turn of the event loop travels in one frame, so that a step of the engine costs each reader one message,
however many answers it advances. Messages are decoded by type: bytes from a connection never become code.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias, TypeVar

import msgspec

import zfleet.errors
from zfleet.engine.contract import Chunk, EngineStats, GenerationRequest, ScoreRequest
from zfleet.errors import EngineError, ZfleetError

LARGEST_FRAME = 2**30
"""In bytes; a length beyond it comes from no client of ours."""

_LENGTH_BYTES = 4
T = TypeVar("T")


class PutZ(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Know a z, which ``ZVector.to_bytes`` wrote. Answered by ``Done`` or ``Failed``."""

    number: int
    z: bytes


class DropZ(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Forget a z, unless another client holds it. Not answered."""

    digest: str


class Generate(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``Piece`` until each of the ``n`` answers has ended, or by ``Failed``."""

    number: int
    request: GenerationRequest


class Score(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``Scored`` or ``Failed``."""

    number: int
    request: ScoreRequest


class Stop(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """End a request; nothing more is said about it."""

    number: int


class AskStats(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``Stats`` or ``Failed``."""

    number: int


class CheckHealth(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``Done`` or ``Failed``."""

    number: int


Call: TypeAlias = PutZ | DropZ | Generate | Score | Stop | AskStats | CheckHealth
"""From client to replica; ``number`` names a call on its connection and is never used twice there."""


class Done(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The z is known, or the engine is well."""

    number: int


class Piece(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A chunk of an answer."""

    number: int
    chunk: Chunk


class Scored(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Log-probabilities of a completion's tokens."""

    number: int
    logprobs: tuple[float, ...]


class Stats(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The engine's counters."""

    number: int
    stats: EngineStats


class Failed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """An error that ends a call: the name of its class in ``zfleet.errors``, and what it says."""

    number: int
    kind: str
    message: str
    remedy: str

    @classmethod
    def of(cls, number: int, error: ZfleetError) -> Failed:
        """Describe an error."""
        return cls(number, type(error).__name__, error.message, error.remedy)

    @property
    def error(self) -> ZfleetError:
        """The error as the engine raised it; an ``EngineError`` where its class is not one of ``zfleet.errors``."""
        kind = getattr(zfleet.errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, ZfleetError)):
            kind = EngineError
        return kind(self.message, self.remedy)


Reply: TypeAlias = Done | Piece | Scored | Stats | Failed
"""From replica to client."""

_ENCODER = msgspec.msgpack.Encoder()
_CALLS = msgspec.msgpack.Decoder(list[Call])
_REPLIES = msgspec.msgpack.Decoder(list[Reply])


def encode(messages: list[Call] | list[Reply]) -> bytes:
    """One frame of messages."""
    body = _ENCODER.encode(messages)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_calls(reader: asyncio.StreamReader) -> list[Call]:
    """Read the next frame of a client.

    Raises:
        ConnectionError: The connection has ended, or what came is no frame of calls.
    """
    return _decoded(_CALLS, await _read(reader))


async def read_replies(reader: asyncio.StreamReader) -> list[Reply]:
    """Read the next frame of a replica.

    Raises:
        ConnectionError: The connection has ended, or what came is no frame of replies.
    """
    return _decoded(_REPLIES, await _read(reader))


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if length > LARGEST_FRAME:
            raise ConnectionError(f"a frame of {length} bytes")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError) as error:
        raise ConnectionError(f"the connection ended: {error}") from error


def _decoded(decoder: msgspec.msgpack.Decoder[T], frame: bytes) -> T:
    try:
        return decoder.decode(frame)
    except msgspec.MsgspecError as error:
        raise ConnectionError(f"what came is no message: {error}") from error
