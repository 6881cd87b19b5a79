"""What passes between examiner and candidate: plain values, never code.

A value is JSON where JSON has it, else a list that starts with a tag.
What has no plain form, a generator or an instance of a class, stays where it is and travels as a number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

Keep = Callable[[object], int]
"""Holds an object and gives its number."""


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
