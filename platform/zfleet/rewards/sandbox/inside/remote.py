"""The candidate's classes and objects as the tests see them.

A class of the candidate's has a class here: with the same plain bases, so that its objects hold the same plain
contents and are compared by them, and with the same names, which are asked for over there. What such an object says of
itself when it is compared is no proof: a plain value equals it only by its contents, and of two, nobody can tell.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .contents import base_of
from .known import name_of, named
from .link import Link, Settled
from .wire import Record

_LINK: list[Link] = []
_YES_OR_NO = {
    *("startswith", "endswith", "issubset", "issuperset", "isdisjoint"),
    *(name for name in vars(str) if name.startswith("is")),
}
"""Questions to plain values; a test that asks an object of the tested code's shows it what would be right."""

_INFORMED: set[int] = set()
"""The numbers of objects that came of an operator with a plain value of a test's."""

_MEASURES = {
    *("builtins.int", "builtins.float", "builtins.complex", "decimal.Decimal", "fractions.Fraction"),
    *("builtins.set", "builtins.frozenset"),
}
"""The names of classes whose values can say that two others are alike: a difference of zero, an empty set."""


def connect(link: Link) -> None:
    """Say whom all of them ask: there is one candidate."""
    _LINK[:] = [link]
    _INFORMED.clear()


def _ask(operation: str, /, *arguments: object, **named: object) -> Any:
    return _LINK[0].ask(operation, *arguments, **named)


class Remote:
    """An object of the candidate's."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name == "__signature__":
            raise Settled(None, "a test asks for the parameters of a function of the tested code's")
        if name in _YES_OR_NO:
            _no_proof(self, name)
        return _ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        _ask("delattr", self, name)

    def __copy__(self) -> Any:
        return _ask("copy", self)

    def __deepcopy__(self, memo: object) -> Any:
        return _ask("deepcopy", self)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise Settled(None, f"a test stores an object of the tested code's {type(self).__name__}")


class RemoteClass(type):
    """A class of the candidate's."""

    def __new__(cls, *_: Any, **__: Any) -> RemoteClass:
        raise Settled(None, "a test derives a class from one of the tested code's")

    def __init__(cls, *_: Any) -> None:
        """Nothing: ``remote_class`` made it."""

    def __call__(cls, /, *arguments: Any, **named: Any) -> Any:
        return _ask("__call__", cls, *arguments, **named)

    def __getattr__(cls, name: str) -> Any:
        return _ask("getattr", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        _ask("setattr", cls, name, value)

    def __delattr__(cls, name: str) -> None:
        _ask("delattr", cls, name)

    def __getitem__(cls, key: Any) -> Any:
        return _ask("__getitem__", cls, key)

    def __iter__(cls) -> Iterator[Any]:
        found: Iterator[Any] = _ask("__iter__", cls)
        return found

    def __len__(cls) -> int:
        return int(_ask("__len__", cls))

    def __bool__(cls) -> bool:
        return True

    def __contains__(cls, value: object) -> bool:
        return any(one is value or one == value for one in cls)


def remote_class(record: Record) -> type:
    """The class that stands for the candidate's.

    Args:
        record: Its module and name, its bases as items, the names in it, and of a data class what it is compared by.

    Raises:
        TypeError, ValueError: There cannot be such a class.
    """
    (module, name), items, names, compared = record
    bases = [base for base in map(_LINK[0].wire.value, items) if _may_be_base(base)]
    if not any(isinstance(base, RemoteClass) for base in bases):
        bases.insert(0, Remote)
    space: dict[str, Any] = {
        "__slots__": (),
        "__module__": str(module),
        "__qualname__": str(name),
        "__doc__": _There("__doc__"),
    }
    for one in map(str, names):
        if one in _SPECIAL:
            space[one] = _SPECIAL[one]
        elif one in _YES_OR_NO:
            space[one] = property(partial(_no_proof, name=one))
        elif not one.startswith("__"):
            space[one] = _There(one)
    if compared is not None:
        fields, by = compared
        space |= {one: _by_fields(_COMPARED[one], [*map(str, fields)]) for one in by}
    if "__await__" in space:
        # No loop that runs here can wait for what runs there.
        space |= {one: property(_SPECIAL["__await__"]) for one in ("send", "throw")}
    try:
        # Of iterators and such, which both processes have: `isinstance` looks there. Not of classes that are written in
        # Python: these ask what says to be one of theirs while they compare, as Counter does.
        if module == "builtins":
            stands_for = named(f"builtins.{name}")
            space["__class__"] = property(lambda self: stands_for)
    except ValueError:
        pass
    made: type = type.__new__(RemoteClass, str(name).rpartition(".")[2], tuple(bases), space)
    return made


def _may_be_base(base: object) -> bool:
    if isinstance(base, RemoteClass):
        return True
    return isinstance(base, type) and base_of(base) is not object and base not in (bool, slice, range)


class _There:
    """A name in a class of the candidate's."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, thing: object, kind: type | None = None) -> Any:
        return _ask("getattr", kind if thing is None else thing, self._name)


def _forwarded(name: str) -> Callable[..., Any]:
    def method(self: object, /, *arguments: Any, **named: Any) -> Any:
        return _ask(name, self, *arguments, **named)

    return method


def _operator(name: str) -> Callable[..., Any]:
    """An operator. One that is given a plain value may answer by it: ``abs(answer(3) - 9) < 1e-6`` would then hold."""

    def method(self: object, other: object, /, *rest: Any) -> Any:
        found = _ask(name, self, other, *rest)
        if found is not NotImplemented and not isinstance(other, Remote):
            _informed(found, f"a {type(self).__name__} is computed with a test's value by the tested code's own rule")
        return found

    return method


def _of_itself(name: str) -> Callable[..., Any]:
    """What turns an object into a number: no proof, where the object came of an operator that saw a test's value."""

    def method(self: object, /, *arguments: Any) -> Any:
        informed = _LINK[0].wire.known(self) in _INFORMED
        found = _ask(name, self, *arguments)
        if informed:
            _informed(
                found, f"a {type(self).__name__} that saw a test's value is measured by the tested code's own rule"
            )
        return found

    return method


def _informed(found: object, reason: str) -> None:
    """Note an object whose making saw a test's value; of a plain value, a number or a set nobody can tell."""
    number = _LINK[0].wire.known(found) if isinstance(found, Remote) else None
    if number is None or name_of(base_of(type(found))) in _MEASURES:
        raise Settled(None, reason)
    _INFORMED.add(number)


def _next(self: object) -> Any:
    try:
        return _ask("__next__", self)
    except Ended as end:
        raise StopIteration(*end.args) from None


def _hash(self: object) -> int:
    wire = _LINK[0].wire
    number = wire.known(self)
    return wire.extras.get(number or 0, number or 0)


def _contains(self: Any, value: object) -> bool:
    # Not asked there: whoever is told what is looked for can say that it is in.
    if not any(name in vars(kind) for kind in type(self).__mro__ for name in ("__iter__", "__getitem__")):
        raise Settled(None, f"what is in a {type(self).__name__} is known to the tested code alone")
    return any(one is value or one == value for one in self)


def _exit(self: object, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
    """Leave a ``with``. A failed assertion leaves it too, whatever the candidate says, and is not shown to it."""
    if error is None:
        _ask("__exit__", self, None, None, None)
        return False
    if isinstance(error, AssertionError | Settled):
        return False
    if _ask("__exit__", self, kind, error, None):
        raise Settled(None, f"a {type(self).__name__} of the tested code's suppresses an exception in a test")
    return False


def _no_proof(self: object, name: str) -> None:
    raise Settled(None, f"a test lets a {type(self).__name__} say what it is: `{name}` is the tested code's own")


def _never(self: object, *_: Any) -> Any:
    raise Settled(None, "a test awaits something of the tested code's")


def _by_own_rule(name: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if _LINK[0].wire.reading:
            return self is other if name == "__eq__" else NotImplemented
        if self is other and name in ("__eq__", "__ne__"):
            return name == "__eq__"
        kind = type(self)
        # Of a library's class that both processes have, and whose objects do not cross, there may be one on each side.
        if isinstance(other, Remote) or (name_of(type(other)) is None and _full_name(type(other)) == _full_name(kind)):
            raise Settled(
                None, f"a {kind.__name__} is compared with a {type(other).__name__} by the tested code's own rule"
            )
        plain = next(one for one in kind.__mro__ if not isinstance(one, RemoteClass) and name in vars(one))
        return getattr(plain, name)(self, other)

    return method


def _by_fields(compare: Callable[[Any, Any], Any], fields: list[str]) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if _LINK[0].wire.reading:
            return self is other if compare is operator.eq else NotImplemented
        if type(other) is not type(self):
            return NotImplemented
        return compare(*(tuple(getattr(one, field) for field in fields) for one in (self, other)))

    return method


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


class Ended(Exception):
    """A StopIteration of the candidate's, or its like. As such it would end a test's own loop, and with it the test."""


_COMPARED = {
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
_OTHERS = (
    *("call", "getitem", "setitem", "delitem", "missing", "iter", "reversed", "length_hint", "enter"),
    *("str", "repr", "format", "bytes", "fspath"),
)
_MEASURED = (
    *("len", "bool", "int", "float", "complex", "index"),
    *("round", "trunc", "floor", "ceil", "neg", "pos", "abs", "invert"),
)
_SPECIAL: dict[str, Any] = {
    **{name: _forwarded(name) for name in (f"__{one}__" for one in _OTHERS)},
    **{name: _of_itself(name) for name in (f"__{one}__" for one in _MEASURED)},
    **{name: _operator(name) for name in (f"__{kind}{one}__" for kind in ("", "r", "i") for one in _BINARY)},
    **{name: _by_own_rule(name) for name in (*_COMPARED, "__ne__")},
    **{f"__{one}__": _never for one in ("await", "aiter", "anext", "aenter", "aexit")},
    "__next__": _next,
    "__hash__": _hash,
    "__contains__": _contains,
    "__exit__": _exit,
}
"""What Python looks up in classes."""
