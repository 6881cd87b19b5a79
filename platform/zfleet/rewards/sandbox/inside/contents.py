"""What plain values are made of: how they are taken apart and put together again, and how containers are changed."""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .known import name_of

Parts = Sequence[Any]

_FACTORY: Any = vars(defaultdict)["default_factory"]
_MOST: Any = vars(deque)["maxlen"]


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
    for key, one in zip(parts[:half], parts[half:], strict=True):
        dict.__setitem__(value, key, one)


def _fill_ordered(value: OrderedDict[Any, Any], parts: Parts) -> None:
    half = len(parts) // 2
    OrderedDict.clear(value)
    for key, one in zip(parts[:half], parts[half:], strict=True):
        OrderedDict.__setitem__(value, key, one)


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
    # Its order is its own: that of the dictionary below it is another.
    OrderedDict: (OrderedDict.__iter__, OrderedDict.values),
    defaultdict: (lambda value: (_FACTORY.__get__(value),), dict.__iter__, dict.values),
    Counter: (dict.__iter__, dict.values),
}
"""Of each class of values that can change, what gives its parts, one after the other."""

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
"""How they take other parts."""

_NEWS: dict[str, Callable[[Any, Any], Iterable[Any]]] = {
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
"""Of each class of values that cannot change and that others may derive from: what makes one."""

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
"""As ``_NEWS``, of classes whose subclasses have no plain contents."""

_VIEWS = {
    type(getattr(kind(), name)()): (kind, name) for kind in (dict, OrderedDict) for name in ("keys", "values", "items")
}
_BASES: dict[type, type] = {}
_JSON = {str, bool, type(None)}

HUGE = 2**64
"""In decimal digits, Python limits how long a number may be."""


def as_they_are(parts: Parts) -> bool:
    """Whether all of them are, without a look at each, what JSON takes."""
    kinds = set(map(type, parts))
    if kinds == {int}:
        return bool(min(parts) > -HUGE and max(parts) < HUGE)
    return kinds <= _JSON


def base_of(kind: type) -> type:
    """The class among its bases by whose rules its instances are taken apart; ``object`` if they have no contents."""
    found = _BASES.get(kind)
    if found is None:
        found = _BASES[kind] = next(base for base in kind.__mro__ if base is object or _has_parts(base, kind))
    return found


def made_of(base: type, value: object) -> Iterable[Any]:
    """The arguments for ``made``, of a value that cannot change."""
    if base is tuple:
        return tuple.__iter__(value)  # type: ignore[arg-type]
    name = name_of(base) or ""
    return (_NEWS.get(name) or _EXACT[name])(base, value)


def made(kind: type, base: type, parts: Parts) -> Any:
    """A value that cannot change, of a class with this base.

    Raises:
        TypeError, ValueError: It takes no such parts.
    """
    new: Any = base.__new__
    if base in (tuple, frozenset):
        return new(kind, parts)
    if base is bytes:
        return new(kind, bytes.fromhex(*parts))
    if base in READERS:
        raise TypeError(f"a {base.__name__} has contents that change")
    if base is BaseException and kind.__module__ != "builtins":
        # Some take other arguments than they hold, such as JSONDecodeError.
        return new(kind, *parts)
    return kind(*parts) if name_of(kind) else new(kind, *parts)


def most_of(base: type, value: Any) -> int | None:
    """Of a deque, the longest that it may become."""
    return _MOST.__get__(value) if base is deque else None


def empty(kind: type, base: type, most: int | None) -> Any:
    """A container without contents; ``most`` as ``most_of`` gives it.

    Raises:
        TypeError: Instances of this class are no containers.
    """
    if base not in READERS:
        raise TypeError(f"a {kind.__name__} is no container")
    new: Any = base.__new__
    value = new(kind)
    if base is deque:
        deque.__init__(value, (), most)
    return value


def view_of(value: object) -> tuple[str, object] | None:
    """Of a dictionary's keys, values or items: which of them, and the dictionary."""
    found = _VIEWS.get(type(value))
    return (found[1], gc.get_referents(value)[0]) if found else None


def view(which: str, value: object) -> Any:
    """The view that ``view_of`` was given.

    Raises:
        ValueError: There is no such view.
    """
    if not isinstance(value, dict) or which not in ("keys", "values", "items"):
        raise ValueError("no view of a dictionary")
    return getattr(OrderedDict if isinstance(value, OrderedDict) else dict, which)(value)


def _has_parts(base: type, kind: type) -> bool:
    if base in READERS or base is BaseException:
        return True
    name = name_of(base)
    return name in _NEWS or (name in _EXACT and base is kind)
