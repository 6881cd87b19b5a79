"""Frames of messages on a connection: four bytes of length (big-endian), then a list of messages in MessagePack.

All messages of one turn of the event loop travel in one frame, so that a step of the engine costs each reader one
frame, however many answers it advances. Messages are decoded by type: bytes from a connection never become code.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from zfleet.errors import EngineError, InvalidRequest, ZfleetError
from zfleet_cluster.fleet.messages import Call, Failed, Message, Reply

LARGEST_FRAME = 2**30
"""In bytes. A message that is larger is refused; a length beyond it comes from no client of ours."""

_LENGTH_BYTES = 4
_KEEP_ALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
"""A node that vanishes closes no connection: the kernel probes it, and gives up after some twenty seconds."""

T = TypeVar("T")
_ENCODER = msgspec.msgpack.Encoder()
_CALLS = msgspec.msgpack.Decoder(list[Call])
_CALL = msgspec.msgpack.Decoder(Call)
_REPLIES = msgspec.msgpack.Decoder(list[Reply])
_REPLY = msgspec.msgpack.Decoder(Reply)
_RAW = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode(messages: Sequence[Message]) -> tuple[bytes, list[Failed]]:
    """Encode messages into frames. A message that cannot be sent is left out, and the others go.

    Returns:
        The frames, and an error for each message that was left out.
    """
    try:
        body = _ENCODER.encode(messages)
    except Exception as error:  # whatever a text with a lone surrogate or a foreign type raises
        if len(messages) == 1:
            return b"", [_unsendable(messages[0], f"{type(error).__name__}: {error}")]
    else:
        if len(body) <= LARGEST_FRAME:
            return len(body).to_bytes(_LENGTH_BYTES, "big") + body, []
        if len(messages) == 1:
            return b"", [_unsendable(messages[0], f"it has {len(body)} bytes, at most {LARGEST_FRAME} are sent")]
    middle = len(messages) // 2
    (first, lost), (second, more) = encode(messages[:middle]), encode(messages[middle:])
    return first + second, lost + more


async def read_calls(reader: asyncio.StreamReader) -> Sequence[Call | Failed]:
    """Read the next frame of a client. A call that cannot be decoded becomes the reply to it.

    Raises:
        ConnectionError: The connection has ended, or the data is no frame of calls.
    """
    return _decode(_CALLS, _CALL, await _read(reader))


async def read_replies(reader: asyncio.StreamReader) -> Sequence[Reply]:
    """Read the next frame of a replica. A reply that cannot be decoded becomes an error.

    Raises:
        ConnectionError: The connection has ended, or the data is no frame of replies.
    """
    return _decode(_REPLIES, _REPLY, await _read(reader))


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Have the kernel end the connection when the other node has vanished."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        if hasattr(socket, option):  # Linux has all of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _unsendable(message: Message, reason: str) -> Failed:
    # A reason may quote the text that cannot be encoded.
    plain = reason.encode("ascii", "backslashreplace").decode()
    text = f"a message {type(message).__name__} cannot be sent: {plain}"
    if isinstance(message, Call):
        remedy = "send text without lone surrogates, integers of at most 64 bits, and fewer or smaller images"
        error: EngineError = InvalidRequest(text, remedy)
    else:
        error = EngineError(text, "send the request again; another one may be answered")
    return Failed.of(getattr(message, "number", 0), error)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if length > LARGEST_FRAME:
            raise ConnectionError(f"a frame of {length} bytes")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError) as error:
        raise ConnectionError(f"the connection ended: {error}") from error


def _decode(
    whole: msgspec.msgpack.Decoder[list[T]], single: msgspec.msgpack.Decoder[T], frame: bytes
) -> Sequence[T | Failed]:
    try:
        return whole.decode(frame)
    except Exception:  # a request checks its own values, and raises what it likes
        try:
            messages = _RAW.decode(frame)
        except msgspec.MsgspecError as error:
            raise ConnectionError(f"the frame holds no messages: {error}") from error
    decoded: list[T | Failed] = []
    for message in messages:
        alone = _decode_alone(single, message)
        decoded.append(alone)
    return decoded


def _decode_alone(decoder: msgspec.msgpack.Decoder[T], message: msgspec.Raw) -> T | Failed:
    try:
        return decoder.decode(message)
    except Exception as error:
        match msgspec.msgpack.decode(message):
            case [str(), int(number), *_]:
                return Failed.of(number, _unreadable(error))
        raise ConnectionError(f"the frame holds a message without a number: {error}") from error


def _unreadable(error: Exception) -> ZfleetError:
    if isinstance(error, ZfleetError):
        return error
    return InvalidRequest(f"a message of the fleet cannot be read: {error}", "give values of the documented types")
