"""What the tests pass to a completion and cannot be sent: here it is asked for over there."""

from __future__ import annotations

from _weakref import ref
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

Ask = Callable[..., Any]


def function(ask: Ask, name: str, doc: str | None, header: str, call: str, defaults: Any, named_defaults: Any) -> Any:
    """A function that calls one of the tests', with its parameters.

    Args:
        ask: As ``Link.ask``.
        name: The function's.
        doc: Its documentation.
        header: Its parameters, without defaults.
        call: How they are passed on.
        defaults: As of a function's ``__defaults__``.
        named_defaults: As of its ``__kwdefaults__``.
    """
    # Weak: a function that holds itself would never be forgotten.
    itself: list[Any] = []
    space = {"__call": lambda *a, **k: ask("__call__", itself[0](), *a, **k)}
    found: Any = eval(f"lambda {header}: __call({call})", space)  # noqa: S307  # parameters of the test's
    itself.append(ref(found))
    found.__name__ = found.__qualname__ = name
    found.__doc__ = doc
    found.__defaults__ = defaults
    found.__kwdefaults__ = named_defaults
    return found


class iterator(Iterator[Any]):  # noqa: N801  # a function to whoever reads a traceback
    """One of the tests' iterators."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def __next__(self) -> Any:
        return self._ask("__next__", self)


def named_tuple(module: str, name: str, fields: list[str]) -> type:
    """The class of one of the tests' named tuples."""
    return namedtuple(name, fields, module=module)
