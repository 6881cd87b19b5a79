"""Send and receive messages between processes: a length in four bytes, then a JSON object."""

from __future__ import annotations

import json
import os
import select
import struct
from collections.abc import Mapping
from typing import Any

READY = {"ready": True}
"""The first message of a process."""

_LONGEST = 16 * 2**20
"""The longest message, in bytes."""


def send(descriptor: int, message: Mapping[str, Any]) -> None:
    """Write a whole message."""
    data = json.dumps(message).encode()
    rest = memoryview(struct.pack(">I", len(data)) + data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def receive(descriptor: int) -> dict[str, Any]:
    """Read a message.

    Raises:
        EOFError: The other process is gone.
        ValueError: The message is too long, or not a JSON object.
    """
    (length,) = struct.unpack(">I", _read(descriptor, 4))
    if length > _LONGEST:
        raise ValueError(f"a message of {length} bytes is longer than {_LONGEST}")
    message = json.loads(_read(descriptor, length))
    if not isinstance(message, dict):
        raise ValueError(f"a message is a JSON {type(message).__name__}, not an object")
    return message


def readable(descriptor: int, seconds: float) -> bool:
    """Wait up to ``seconds``; return whether a message, or the end of the stream, can be read."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def _read(descriptor: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(descriptor, min(count, 2**20))
        if not part:
            raise EOFError("the other process is gone")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
