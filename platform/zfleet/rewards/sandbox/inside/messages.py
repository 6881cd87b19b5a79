"""Messages between processes: a length in four bytes, then a JSON object."""

from __future__ import annotations

import json
import os
import select
import struct
from collections.abc import Mapping
from typing import Any

READY = {"ready": True}
"""A process's first message."""

_MOST = 16 * 2**20
"""Bytes of the longest message."""


def send(descriptor: int, message: Mapping[str, Any]) -> None:
    """Write a message, all of it."""
    data = json.dumps(message).encode()
    rest = memoryview(struct.pack(">I", len(data)) + data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def receive(descriptor: int) -> dict[str, Any]:
    """Read a message.

    Raises:
        EOFError: The other side is gone.
        ValueError: It is too long, or no JSON object.
    """
    (length,) = struct.unpack(">I", _read(descriptor, 4))
    if length > _MOST:
        raise ValueError(f"a message of {length} bytes is longer than {_MOST}")
    message = json.loads(_read(descriptor, length))
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message


def readable(descriptor: int, seconds: float) -> bool:
    """Whether something can be read within so long: a message, or the end."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def _read(descriptor: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(descriptor, min(count, 2**20))
        if not part:
            raise EOFError("the other side is gone")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
