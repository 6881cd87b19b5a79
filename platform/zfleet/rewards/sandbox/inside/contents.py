"""Take plain values apart and put them together again, and replace the contents of containers."""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .known import name_of

Parts = Sequence[Any]

_FACTORY: Any = vars(defaultdict)["default_factory"]
_MAX_LENGTH: Any = vars(deque)["maxlen"]


def _fill_list(value: list[Any], parts: Parts) -> None:
    list.__setitem__(value, slice(None), parts)


def _fill_set(value: set[Any], parts: Parts) -> None:
    set.clear(value)
    set.update(value, parts)


def _fill_deque(value: deque[Any], parts: Parts) -> None:
    deque.clear(value)
    deque.extend(value, parts)


def _fill_dict(value: dict[Any, Any], parts: Parts) -> None:
    half = len(parts) // 2
    dict.clear(value)
    for key, item in zip(parts[:half], parts[half:], strict=True):
        dict.__setitem__(value, key, item)


def _fill_ordered(value: OrderedDict[Any, Any], parts: Parts) -> None:
    half = len(parts) // 2
    OrderedDict.clear(value)
    for key, item in zip(parts[:half], parts[half:], strict=True):
        OrderedDict.__setitem__(value, key, item)


def _fill_default(value: defaultdict[Any, Any], parts: Parts) -> None:
    _FACTORY.__set__(value, parts[0])
    _fill_dict(value, parts[1:])


def _fill_bytearray(value: bytearray, parts: Parts) -> None:
    bytearray.__setitem__(value, slice(None), bytes(parts))


READERS: dict[type, tuple[Callable[[Any], Iterable[Any]], ...]] = {
    list: (list.__iter__,),
    dict: (dict.__iter__, dict.values),
    set: (set.__iter__,),
    bytearray: (bytearray.__iter__,),
    deque: (deque.__iter__,),
    # An OrderedDict keeps an order of its own, which can differ from that of the dictionary below it.
    OrderedDict: (OrderedDict.__iter__, OrderedDict.values),
    defaultdict: (lambda value: (_FACTORY.__get__(value),), dict.__iter__, dict.values),
    Counter: (dict.__iter__, dict.values),
}
"""For each class of mutable values, the functions that iterate over its parts; one for each column of parts."""

FILLERS: dict[type, Callable[[Any, Parts], None]] = {
    list: _fill_list,
    dict: _fill_dict,
    set: _fill_set,
    bytearray: _fill_bytearray,
    deque: _fill_deque,
    OrderedDict: _fill_ordered,
    defaultdict: _fill_default,
    Counter: _fill_dict,
}
"""For each class of mutable values, the function that replaces its contents."""

_SUBCLASSABLE: dict[str, Callable[[Any, Any], Iterable[Any]]] = {
    "builtins.tuple": lambda base, value: base.__iter__(value),
    "builtins.frozenset": lambda base, value: base.__iter__(value),
    "builtins.int": lambda base, value: (base.__pos__(value),),
    "builtins.float": lambda base, value: (base.__repr__(value),),
    "builtins.str": lambda base, value: (base.__str__(value),),
    "builtins.bytes": lambda base, value: (base.hex(value),),
    "builtins.complex": lambda base, value: (value.real, value.imag),
    "builtins.BaseException": lambda base, value: base.args.__get__(value),
    "decimal.Decimal": lambda base, value: (base.__str__(value),),
    "fractions.Fraction": lambda base, value: (value.numerator, value.denominator),
    **{
        f"datetime.{name}": lambda base, value: base.__reduce_ex__(value, 4)[1]
        for name in ("datetime", "date", "time", "timedelta", "timezone")
    },
}
"""For each class of immutable values that may have subclasses: the function that returns its constructor arguments."""

_EXACT: dict[str, Callable[[Any, Any], Iterable[Any]]] = {
    "builtins.range": lambda base, value: (value.start, value.stop, value.step),
    "builtins.slice": lambda base, value: (value.start, value.stop, value.step),
    "collections.ChainMap": lambda base, value: value.maps,
    "uuid.UUID": lambda base, value: (str(value),),
    **{
        f"pathlib.{name}": lambda base, value: (str(value),)
        for name in ("PosixPath", "PurePosixPath", "PureWindowsPath")
    },
}
"""The same for classes whose subclasses are not taken apart."""

_VIEWS = {
    type(getattr(kind(), name)()): (kind, name) for kind in (dict, OrderedDict) for name in ("keys", "values", "items")
}
_BASES: dict[type, type] = {}
_JSON = {str, bool, type(None)}

HUGE = 2**64
"""Larger integers cross in hexadecimal digits, because Python limits how many decimal digits it converts."""


def are_json(parts: Parts) -> bool:
    """Return whether JSON can hold all parts as they are; checks their classes, not each value, for speed."""
    kinds = set(map(type, parts))
    if kinds == {int}:
        return bool(min(parts) > -HUGE and max(parts) < HUGE)
    return kinds <= _JSON


def base_of(kind: type) -> type:
    """Return the base class whose rules take instances of ``kind`` apart; ``object`` if they have no plain contents."""
    base = _BASES.get(kind)
    if base is None:
        base = _BASES[kind] = next(base for base in kind.__mro__ if base is object or _has_parts(base, kind))
    return base


def parts_of(base: type, value: object) -> Iterable[Any]:
    """Return the parts of an immutable value, from which ``rebuild`` makes it again."""
    if base is tuple:
        return tuple.__iter__(value)  # type: ignore[arg-type]
    name = name_of(base) or ""
    return (_SUBCLASSABLE.get(name) or _EXACT[name])(base, value)


def rebuild(kind: type, base: type, parts: Parts) -> Any:
    """Make an immutable value of class ``kind`` from its parts.

    Raises:
        TypeError, ValueError: The class does not take these parts.
    """
    new: Any = base.__new__
    if base in (tuple, frozenset):
        return new(kind, parts)
    if base is bytes:
        return new(kind, bytes.fromhex(*parts))
    if base in READERS:
        raise TypeError(f"a {base.__name__} has contents that change")
    if base is BaseException and kind.__module__ != "builtins":
        # The constructor of some exceptions, such as JSONDecodeError, takes other arguments than `args` holds.
        return new(kind, *parts)
    return kind(*parts) if name_of(kind) else new(kind, *parts)


def max_length(base: type, value: Any) -> int | None:
    """Return a deque's maximum length; None for other containers."""
    return _MAX_LENGTH.__get__(value) if base is deque else None


def empty(kind: type, base: type, longest: int | None) -> Any:
    """Make a container without contents; ``longest`` is the result of ``max_length``.

    Raises:
        TypeError: Instances of this class are not containers.
    """
    if base not in READERS:
        raise TypeError(f"a {kind.__name__} is not a container")
    new: Any = base.__new__
    value = new(kind)
    if base is deque:
        deque.__init__(value, (), longest)
    return value


def view_of(value: object) -> tuple[str, object] | None:
    """Return which view of a dictionary a value is, and the dictionary; None if it is not a view."""
    view_type = _VIEWS.get(type(value))
    return (view_type[1], gc.get_referents(value)[0]) if view_type else None


def view(which: str, value: object) -> Any:
    """Return a dictionary's view; ``which`` comes from ``view_of``.

    Raises:
        ValueError: There is no such view.
    """
    if not isinstance(value, dict) or which not in ("keys", "values", "items"):
        raise ValueError(f"{which!r} of a {type(value).__name__} is not a view of a dictionary")
    return getattr(OrderedDict if isinstance(value, OrderedDict) else dict, which)(value)


def _has_parts(base: type, kind: type) -> bool:
    if base in READERS or base is BaseException:
        return True
    name = name_of(base)
    return name in _SUBCLASSABLE or (name in _EXACT and base is kind)
