"""The candidate's objects and classes as the tests see them.

Each class of the candidate has a counterpart here, with the same plain bases, so that its objects hold and compare the
same plain contents, and with the same names, whose values are fetched from the candidate. An object's own answer to a
comparison is not proof: it equals a plain value only by its contents, and two such objects cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .link import Link, Settled

YES_OR_NO = {
    *("startswith", "endswith", "issubset", "issuperset", "isdisjoint"),
    *(name for name in vars(str) if name.startswith("is")),
}
"""Methods of plain values that answer yes or no. Calling one on a candidate's object would tell it the right answer."""

INFORMED: set[int] = set()
"""The numbers of objects that an operator made from a test's plain value."""

_LINK: list[Link] = []


class Ended(Exception):
    """The candidate's StopIteration, or a relative. Under its own type it would end a loop of the test's own."""


def connect(link: Link) -> None:
    """Set the link over which all objects reach the one candidate."""
    _LINK[:] = [link]
    INFORMED.clear()


def link() -> Link:
    """Return the link to the candidate."""
    return _LINK[0]


def ask(operation: str, /, *arguments: object, **named: object) -> Any:
    """Perform an operation in the candidate: see ``Link.ask``."""
    return _LINK[0].ask(operation, *arguments, **named)


def no_proof(self: object, name: str) -> None:
    """Refuse a question that an object of the candidate would answer about itself."""
    raise Settled(None, f"a test lets a {type(self).__name__} say what it is: `{name}` is the tested code's own")


class Remote:
    """An object of the candidate."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name == "__signature__":
            raise Settled(None, "a test asks for the parameters of a function of the tested code's")
        if name in YES_OR_NO:
            no_proof(self, name)
        return ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        ask("delattr", self, name)

    def __copy__(self) -> Any:
        return ask("copy", self)

    def __deepcopy__(self, memo: object) -> Any:
        return ask("deepcopy", self)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise Settled(None, f"a test stores an object of the tested code's {type(self).__name__}")


class RemoteClass(type):
    """A class of the candidate."""

    def __new__(cls, *_: Any, **__: Any) -> RemoteClass:
        raise Settled(None, "a test derives a class from one of the tested code's")

    def __init__(cls, *_: Any) -> None:
        """Do nothing: ``remote_class`` has set up the class."""

    def __call__(cls, /, *arguments: Any, **named: Any) -> Any:
        return ask("__call__", cls, *arguments, **named)

    def __getattr__(cls, name: str) -> Any:
        return ask("getattr", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        ask("setattr", cls, name, value)

    def __delattr__(cls, name: str) -> None:
        ask("delattr", cls, name)

    def __getitem__(cls, key: Any) -> Any:
        return ask("__getitem__", cls, key)

    def __iter__(cls) -> Iterator[Any]:
        iterator: Iterator[Any] = ask("__iter__", cls)
        return iterator

    def __len__(cls) -> int:
        return int(ask("__len__", cls))

    def __bool__(cls) -> bool:
        return True

    def __contains__(cls, value: object) -> bool:
        return any(item is value or item == value for item in cls)
