"""What passes between examiner and candidate: plain values, never code.

A message is a length in four bytes, then JSON. A value is JSON where JSON has it, else a list that starts with a tag.
What has no plain form, a generator or an instance of a class, stays where it is and travels as a number.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Keep = Callable[[object], int]
"""Holds an object and gives its number."""

READY = {"ready": True}
"""The candidate's first message."""

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


def pack(value: object, keep: Keep) -> Any:
    """A value as JSON takes it. Instances of subclasses of plain types travel as the plain type.

    Raises:
        RecursionError: It is nested too deeply, or holds itself.
    """
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        # In decimal digits, Python limits how long a number may be.
        return int(value) if -(2**64) < value < 2**64 else ["int", hex(value)]
    if isinstance(value, dict):
        return ["dict", *([pack(key, keep), pack(one, keep)] for key, one in value.items())]
    for tag, kind in _COLLECTIONS.items():
        if isinstance(value, kind):
            items: Iterable[object] = value
            return [tag, *(pack(one, keep) for one in items)]
    if isinstance(value, _KEYS):
        return ["set", *(pack(one, keep) for one in value)]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytes | bytearray):
        return [type(value).__name__, value.hex()]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if type(value).__module__ in _TEXTUAL:
        name = f"{type(value).__module__}.{type(value).__name__}"
        if name in ("decimal.Decimal", "fractions.Fraction"):
            return [name, str(value)]
    return ["object", keep(value)]


def unpack(packed: Any, held: Callable[[int], object]) -> Any:
    """The value that ``pack`` was given; ``held`` gives what stands for an object that stayed on the other side.

    Raises:
        ValueError: Not what ``pack`` makes.
    """
    if not isinstance(packed, list):
        if isinstance(packed, dict):
            raise ValueError("an object is no packed value")
        return packed
    try:
        tag, *rest = packed
        if tag in _COLLECTIONS:
            return _COLLECTIONS[tag](unpack(one, held) for one in rest)
        if tag == "dict":
            return {unpack(key, held): unpack(one, held) for key, one in rest}
        return _atom(tag, rest, held)
    except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"no packed value: {error}") from error


_COLLECTIONS: dict[str, type[Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
_KEYS: type[Any] = type({}.keys())
"""Equal to sets with the same members, and to nothing else that is plain."""

_TEXTUAL = ("decimal", "fractions")


def _atom(tag: object, rest: list[Any], held: Callable[[int], object]) -> object:
    match tag, rest:
        case "object", [int(number)]:
            return held(number)
        case "int", [str(digits)]:
            return int(digits, 16)
        case "complex", [real, imaginary]:
            return complex(real, imaginary)
        case "bytes", [str(digits)]:
            return bytes.fromhex(digits)
        case "bytearray", [str(digits)]:
            return bytearray.fromhex(digits)
        case "range", [int(start), int(stop), int(step)]:
            return range(start, stop, step)
        case "decimal.Decimal", [str(text)]:
            from decimal import Decimal

            return Decimal(text)
        case "fractions.Fraction", [str(text)]:
            from fractions import Fraction

            return Fraction(text)
    raise ValueError(f"no packed value: {tag!r}")


def _read(descriptor: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(descriptor, min(count, 2**20))
        if not part:
            raise EOFError("the other side is gone")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
