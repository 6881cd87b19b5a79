"""The examiner's end of the pipe: what tests may pass to the tested code besides plain values.

Functions and iterators stay here, and the tested code asks for their results. Named tuples cross with their class.
"""

from __future__ import annotations

import operator
from functools import partial
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodDescriptorType, MethodType
from typing import Any

from .known import name_of
from .link import Settled
from .remote import Remote, RemoteClass
from .remote_class import remote_class
from .wire import Record, Wire

_PURE = ("math", "cmath", "_operator", "itertools")
_READERS = ("format", "format_map")
"""Methods of strings that can read any attribute of their arguments."""

_POSITIONAL, _NAMED = 0x04, 0x08
"""Flags of a code object: the function has ``*`` or ``**`` parameters."""


class ExaminersWire(Wire):
    """The examiner's end: the candidate can reach nothing of the tests except what they pass to it."""

    def __init__(self) -> None:
        super().__init__(0)

    def perform(self, operation: str, /, *arguments: Any, **named: Any) -> object:
        """Call a function that a test passed, or advance an iterator that it passed."""
        target, *rest = arguments
        number = self.known(target)
        if number not in self._staying or operation not in ("__call__", "__next__"):
            raise Settled(False, "the tested process asks for something that no test passed")
        return next(target) if operation == "__next__" else target(*rest, **named)

    def class_item(self, kind: type) -> Any:
        if isinstance(kind, RemoteClass):
            raise _forgotten(kind)
        if not _is_named_tuple(kind):
            raise Settled(None, f"a test passes its class {kind.__name__} to the tested code")
        number = self.known(kind)
        if number is None:
            number = self.number(kind)
            self.record("classes", [number, kind.__module__, kind.__name__, list(kind._fields)])  # type: ignore[attr-defined]
        return [number]

    def class_of(self, value: object) -> tuple[Any, bool]:
        if isinstance(value, Remote):
            raise _forgotten(type(value))
        if isinstance(value, BaseException):
            # The candidate sees an exception of the nearest class that it has too; it comes back as itself.
            return ["name", next(name for kind in type(value).__mro__ if (name := name_of(kind)))], True
        if not _is_named_tuple(type(value)):
            raise _own(value)
        return self.class_item(type(value)), False

    def extra(self, value: object) -> int | None:
        return None

    def stand_in_for(self, value: object) -> tuple[Any, list[Any]]:
        if isinstance(value, Remote):
            raise _forgotten(type(value))
        if isinstance(value, FunctionType):
            return "function", [self.item(part) for part in _signature(value)]
        if _may_be_called(value):
            name = getattr(value, "__name__", type(value).__name__)
            return "function", [name, None, "*a, **k", "*a, **k", None, None]
        if hasattr(value, "__next__") and (
            isinstance(value, GeneratorType) or type(value).__module__ in ("builtins", *_PURE)
        ):
            return "iterator", []
        raise _own(value)

    def make_class(self, rest: Record) -> Any:
        return remote_class(rest)

    def make(self, kind: Any, parts: list[Any]) -> Any:
        if not isinstance(kind, RemoteClass):
            raise TypeError(f"an object's class is {kind!r}, which is not a class of the tested code's")
        new: Any = object.__new__
        return new(kind)


def _own(value: object) -> Settled:
    return Settled(None, f"a test passes its {type(value).__name__} to the tested code")


def _forgotten(kind: type) -> Settled:
    return Settled(False, f"the tested process forgot its {kind.__name__}")


def _is_named_tuple(kind: type) -> bool:
    """Return whether a class is a plain named tuple, which can be made again from its name and fields."""
    if kind.__bases__ != (tuple,) or not isinstance(getattr(kind, "_fields", None), tuple):
        return False
    return not [name for name, value in vars(kind).items() if isinstance(value, FunctionType) and name not in _WRITTEN]


_WRITTEN = ("__new__", "__repr__", "_replace", "_asdict", "__getnewargs__", "__replace__")
"""The functions that ``namedtuple`` writes."""


def _may_be_called(value: object) -> bool:
    """Return whether the candidate may call this: not ``eval``, ``getattr`` and others that reach further objects."""
    if isinstance(value, MethodType):
        return isinstance(value.__func__, FunctionType)
    if isinstance(value, partial):
        return _may_be_called(value.func) or isinstance(value.func, FunctionType) or name_of(value.func) is not None
    if isinstance(value, operator.itemgetter | operator.attrgetter):
        return True
    if isinstance(value, MethodDescriptorType):
        return name_of(value.__objclass__) is not None and value.__name__ not in _READERS
    if isinstance(value, BuiltinFunctionType):
        plain = name_of(type(value.__self__)) is not None and not isinstance(value.__self__, type)
        return value.__module__ in _PURE or (plain and value.__name__ not in _READERS)
    return isinstance(getattr(value, "__wrapped__", None), FunctionType)


def _signature(function: FunctionType) -> tuple[Any, ...]:
    """Return a function's name, docstring, parameter list, argument list of a call, and defaults."""
    code = function.__code__
    names = code.co_varnames
    count = code.co_argcount
    named = names[count : count + code.co_kwonlyargcount]
    rest = iter(names[count + len(named) :])
    header, call = [*names[:count]], [*names[:count]]
    if code.co_posonlyargcount:
        header.insert(code.co_posonlyargcount, "/")
    if code.co_flags & _POSITIONAL:
        header.append(f"*{next(rest)}")
        call.append(header[-1])
    elif named:
        header.append("*")
    header += named
    call += [f"{name}={name}" for name in named]
    if code.co_flags & _NAMED:
        header.append(f"**{next(rest)}")
        call.append(header[-1])
    return (
        function.__name__,
        function.__doc__,
        ", ".join(header),
        ", ".join(call),
        function.__defaults__,
        function.__kwdefaults__,
    )
