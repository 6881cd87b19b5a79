"""Stand-ins in the candidate's process for functions and iterators of the tests: they ask the examiner."""

from __future__ import annotations

from _weakref import ref
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

Ask = Callable[..., Any]


def function(ask: Ask, name: str, doc: str | None, header: str, call: str, defaults: Any, named_defaults: Any) -> Any:
    """Make a function with the parameters of a test's function, which it calls.

    Args:
        ask: ``Link.ask``.
        name: The name of the function.
        doc: Its docstring.
        header: Its parameters, without defaults.
        call: The arguments with which it calls the test's function.
        defaults: Its ``__defaults__``.
        named_defaults: Its ``__kwdefaults__``.
    """
    # A weak reference: a function that refers to itself would never be freed.
    itself: list[Any] = []
    space = {"__call": lambda *a, **k: ask("__call__", itself[0](), *a, **k)}
    stand_in: Any = eval(f"lambda {header}: __call({call})", space)  # noqa: S307  # the test's own parameters
    itself.append(ref(stand_in))
    stand_in.__name__ = stand_in.__qualname__ = name
    stand_in.__doc__ = doc
    stand_in.__defaults__ = defaults
    stand_in.__kwdefaults__ = named_defaults
    return stand_in


class iterator(Iterator[Any]):  # noqa: N801  # named as in the protocol and in tracebacks
    """An iterator that advances one of the tests' iterators."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def __next__(self) -> Any:
        return self._ask("__next__", self)


def named_tuple(module: str, name: str, fields: list[str]) -> type:
    """Make the class of one of the tests' named tuples."""
    return namedtuple(name, fields, module=module)
