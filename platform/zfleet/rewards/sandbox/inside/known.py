"""Objects that both processes have: classes, and a few functions without side effects. They cross by name."""

from __future__ import annotations

import builtins
import sys
from functools import cache
from importlib import import_module
from types import BuiltinFunctionType

_FUNCTIONS = {
    *("abs", "all", "any", "ascii", "bin", "callable", "chr", "divmod", "format", "hash", "hex", "isinstance"),
    *(
        "issubclass",
        "iter",
        "len",
        "max",
        "min",
        "next",
        "oct",
        "ord",
        "pow",
        "print",
        "repr",
        "round",
        "sorted",
        "sum",
    ),
}
_CLASSES: dict[str, tuple[str, ...]] = {
    "_queue": ("Empty",),
    "binascii": ("Error",),
    "collections": ("ChainMap", "Counter", "OrderedDict", "defaultdict", "deque"),
    "dataclasses": ("FrozenInstanceError",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal", "DecimalException", "DivisionByZero", "InvalidOperation", "Overflow", "Underflow"),
    "fractions": ("Fraction",),
    "json.decoder": ("JSONDecodeError",),
    "pathlib": ("PosixPath", "PurePosixPath", "PureWindowsPath"),
    "re": ("error",),
    "statistics": ("StatisticsError",),
    "struct": ("error",),
    "uuid": ("UUID",),
    "zlib": ("error",),
}
_SINGLE = {id(Ellipsis): "builtins.Ellipsis", id(NotImplemented): "builtins.NotImplemented"}


def name_of(value: object) -> str | None:
    """Return the name under which the other process has the same object; None if it does not have it."""
    if isinstance(value, type | BuiltinFunctionType):
        return _name_of(value)
    if type(value) is float:
        return "math.nan" if "math" in sys.modules and value is sys.modules["math"].nan else None
    return _SINGLE.get(id(value))


def named(name: str) -> object:
    """Return the object for a name from ``name_of``.

    Raises:
        ValueError: No object crosses by this name.
    """
    value = _named(name)
    if value is None:
        raise ValueError(f"no object crosses by the name {name!r}")
    return value


@cache
def _name_of(value: type | BuiltinFunctionType) -> str | None:
    name = f"{value.__module__}.{value.__name__}"
    return name if _named(name) is value else None


@cache
def _named(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    if name == "math.nan" or attribute in _CLASSES.get(module, ()):
        return getattr(import_module(module), attribute)
    if name == "builtins.NoneType":
        return type(None)
    value = getattr(builtins, attribute, None) if module == "builtins" and not attribute.startswith("_") else None
    return value if isinstance(value, type) or attribute in _FUNCTIONS or name in _SINGLE.values() else None
