"""The program that runs a completion and answers what the tests ask of it. It never sees a test."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any

from .known import name_of
from .link import Link, Settled
from .lockdown import lock_down
from .messages import READY, receive, send
from .stand_ins import function, iterator, named_tuple
from .wire import Record, Wire

_GENERATED = "<string>"
"""The file of the methods that ``dataclass`` writes."""


def main() -> None:
    """Talk with the examiner over standard input and output, which the completion does not get."""
    channel = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    send(channel, READY)
    job = receive(channel)
    lock_down(job["limits"])
    serve(channel, job)


def serve(channel: int, job: dict[str, Any]) -> None:
    """Run a completion, and answer until the examiner is gone.

    Args:
        channel: To the examiner.
        job: ``code`` and the ``names`` that tests use.
    """
    completion = _Completion(job["names"])
    link = Link(channel, _Wire(lambda *asked, **named: link.ask(*asked, **named)), completion.perform)
    message = {"ask": "run", "items": [job["code"]], "names": []}
    with suppress(Settled):
        while True:
            link.reply(message)
            message = link.receive()


class _Completion:
    """What a model wrote, as a module of its own.

    What a completion does only when it is the main program, it does not do here.
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._space: dict[str, Any] = {}
        self._found: dict[str, Any] = {}

    def perform(self, operation: str, /, *arguments: Any, **named: Any) -> object:
        try:
            if operation == "run":
                return self._run(*arguments)
            perform = _OPERATIONS.get(operation)
            if perform is not None:
                return perform(*arguments, **named)
            return getattr(type(arguments[0]), operation)(*arguments, **named)
        finally:
            # A global that is bound anew is another value for the tests too.
            self._found.update({name: self._space[name] for name in self._names if name in self._space})

    def _run(self, code: str) -> object:
        """The dictionary of what the completion calls each of the names; one that it does not define is left out."""
        module = sys.modules["completion"] = ModuleType("completion")
        self._space = vars(module)
        program = compile(code, "completion", "exec", dont_inherit=True)
        exec(program, self._space)  # noqa: S102  # the one place for it: inside the sandbox
        return self._found


def _call(function: Callable[..., object], /, *arguments: object, **named: object) -> object:
    return function(*arguments, **named)


def _copy(value: object) -> object:
    import copy

    return copy.copy(value)


def _deepcopy(value: object) -> object:
    import copy

    return copy.deepcopy(value)


_OPERATIONS: dict[str, Callable[..., object]] = {
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "copy": _copy,
    "deepcopy": _deepcopy,
    "__call__": _call,
    "__getitem__": operator.getitem,
    "__iter__": iter,
    "__len__": len,
}
"""All others are methods of the object's class."""


class _Wire(Wire):
    """The candidate's end: its own classes and their objects stay here."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        super().__init__(1)
        self._ask = ask

    def class_item(self, kind: type) -> Any:
        number = self.known(kind)
        if number is None:
            bases = [self.item(base) for base in kind.__bases__ if base is not object]
            number = self.number(kind, kept=True)
            compared = _compared(kind)
            names = [name for name, value in vars(kind).items() if not (name == "__hash__" and value is None)]
            self.tell("classes", [number, [kind.__module__, kind.__qualname__], bases, names, compared])
        return [number]

    def class_of(self, value: object) -> tuple[Any, bool]:
        item = self.class_item(type(value))
        # Named tuples of a class that came from the tests are plain.
        return item, item[0] in self._kept

    def standing(self, value: object) -> tuple[Any, list[Any]]:
        return self.class_item(type(value)), []

    def extra(self, value: object) -> int | None:
        """Its hash, where its class has one of its own."""
        if isinstance(value, FunctionType):
            return None
        try:
            own = next(kind for kind in type(value).__mro__ if "__hash__" in vars(kind))
            return None if name_of(own) else hash(value)
        except Exception:
            return None

    def make_class(self, rest: Record) -> Any:
        return named_tuple(*rest)

    def make(self, kind: Any, parts: list[Any]) -> Any:
        stand_ins: dict[str, Callable[..., object]] = {"function": function, "iterator": iterator}
        return stand_ins[kind](self._ask, *parts)


def _compared(kind: type) -> tuple[list[str], list[str]] | None:
    """Of a data class, the fields that its objects are compared by, and the comparisons that nobody wrote."""
    written = vars(kind)
    by = [name for name in ("__eq__", "__lt__", "__le__", "__gt__", "__ge__") if name in written]
    by = [name for name in by if getattr(getattr(written[name], "__code__", None), "co_filename", "") == _GENERATED]
    if not by or "__dataclass_fields__" not in written:
        return None
    return [name for name, field in written["__dataclass_fields__"].items() if field.compare], by
