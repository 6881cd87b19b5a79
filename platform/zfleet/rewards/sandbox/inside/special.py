"""The special methods of the candidate's objects, which Python looks up in their class here."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from .contents import base_of
from .known import name_of
from .link import Settled
from .remote import INFORMED, Ended, Remote, RemoteClass, ask, link

_MEASURES = {
    *("builtins.int", "builtins.float", "builtins.complex", "decimal.Decimal", "fractions.Fraction"),
    *("builtins.set", "builtins.frozenset"),
}
"""Classes whose values can say that two others are equal: a difference of zero, an empty set."""


def _forward(name: str) -> Callable[..., Any]:
    def method(self: object, /, *arguments: Any, **named: Any) -> Any:
        return ask(name, self, *arguments, **named)

    return method


def _binary_operator(name: str) -> Callable[..., Any]:
    """Forward an operator. A result that saw a test's value is no proof: ``abs(answer(3) - 9) < 1e-6`` could cheat."""

    def method(self: object, other: object, /, *rest: Any) -> Any:
        result = ask(name, self, other, *rest)
        if result is not NotImplemented and not isinstance(other, Remote):
            _mark_informed(
                result, f"a {type(self).__name__} is computed with a test's value by the tested code's own rule"
            )
        return result

    return method


def _measure(name: str) -> Callable[..., Any]:
    """Forward a conversion to a number. Its result is no proof if the object was made from a test's value."""

    def method(self: object, /, *arguments: Any) -> Any:
        informed = link().wire.known(self) in INFORMED
        result = ask(name, self, *arguments)
        if informed:
            _mark_informed(
                result, f"a {type(self).__name__} that saw a test's value is measured by the tested code's own rule"
            )
        return result

    return method


def _mark_informed(result: object, reason: str) -> None:
    """Remember that an object was made from a test's value.

    Raises:
        Settled: The result is a plain value, a number or a set, so that nobody can tell whether it is right.
    """
    number = link().wire.known(result) if isinstance(result, Remote) else None
    if number is None or name_of(base_of(type(result))) in _MEASURES:
        raise Settled(None, reason)
    INFORMED.add(number)


def _next(self: object) -> Any:
    try:
        return ask("__next__", self)
    except Ended as end:
        raise StopIteration(*end.args) from None


def _hash(self: object) -> int:
    wire = link().wire
    number = wire.known(self)
    return wire.extras.get(number or 0, number or 0)


def _contains(self: Any, value: object) -> bool:
    # Compare here, not in the candidate's process: it could claim to contain whatever it is asked about.
    if not any(name in vars(kind) for kind in type(self).__mro__ for name in ("__iter__", "__getitem__")):
        raise Settled(None, f"what is in a {type(self).__name__} is known to the tested code alone")
    return any(item is value or item == value for item in self)


def _exit(self: object, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
    """Leave a ``with``. The candidate neither sees nor stops a failed assertion."""
    if error is None:
        ask("__exit__", self, None, None, None)
        return False
    if isinstance(error, AssertionError | Settled):
        return False
    if ask("__exit__", self, kind, error, None):
        raise Settled(None, f"a {type(self).__name__} of the tested code's suppresses an exception in a test")
    return False


def _refuse_await(self: object, *_: Any) -> Any:
    raise Settled(None, "a test awaits something of the tested code's")


def _compare_contents(name: str) -> Callable[[Any, Any], Any]:
    """Compare by the plain base class of the object, never by the candidate's own method."""

    def method(self: Any, other: Any) -> Any:
        if link().wire.reading:
            return self is other if name == "__eq__" else NotImplemented
        if self is other and name in ("__eq__", "__ne__"):
            return name == "__eq__"
        kind = type(self)
        # Both processes may have an object of a library's class whose objects do not cross.
        if isinstance(other, Remote) or (name_of(type(other)) is None and _full_name(type(other)) == _full_name(kind)):
            raise Settled(
                None, f"a {kind.__name__} is compared with a {type(other).__name__} by the tested code's own rule"
            )
        plain = next(base for base in kind.__mro__ if not isinstance(base, RemoteClass) and name in vars(base))
        return getattr(plain, name)(self, other)

    return method


def compare_fields(name: str, fields: list[str]) -> Callable[[Any, Any], Any]:
    """Make the comparison that ``dataclass`` would write for these fields.

    Raises:
        KeyError: ``dataclass`` writes no method of this name.
    """
    compare = _COMPARED[name]

    def method(self: Any, other: Any) -> Any:
        if link().wire.reading:
            return self is other if compare is operator.eq else NotImplemented
        if type(other) is not type(self):
            return NotImplemented
        return compare(*(tuple(getattr(thing, field) for field in fields) for thing in (self, other)))

    return method


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "__eq__": operator.eq,
    "__lt__": operator.lt,
    "__le__": operator.le,
    "__gt__": operator.gt,
    "__ge__": operator.ge,
}
_BINARY = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul"),
    *("lshift", "rshift", "and", "or", "xor"),
)
_FORWARDED = (
    *("call", "getitem", "setitem", "delitem", "missing", "iter", "reversed", "length_hint", "enter"),
    *("str", "repr", "format", "bytes", "fspath"),
)
_MEASURING = (
    *("len", "bool", "int", "float", "complex", "index"),
    *("round", "trunc", "floor", "ceil", "neg", "pos", "abs", "invert"),
)
SPECIAL: dict[str, Any] = {
    **{f"__{name}__": _forward(f"__{name}__") for name in _FORWARDED},
    **{f"__{name}__": _measure(f"__{name}__") for name in _MEASURING},
    **{f"__{side}{name}__": _binary_operator(f"__{side}{name}__") for side in ("", "r", "i") for name in _BINARY},
    **{name: _compare_contents(name) for name in (*_COMPARED, "__ne__")},
    **{f"__{name}__": _refuse_await for name in ("await", "aiter", "anext", "aenter", "aexit")},
    "__next__": _next,
    "__hash__": _hash,
    "__contains__": _contains,
    "__exit__": _exit,
}
"""All special methods that a class of the candidate may define, by name."""
