"""The program that runs a completion and performs the operations that the tests ask for. It never sees a test."""

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
"""The file name in the code of methods that ``dataclass`` writes."""


def main() -> None:
    """Talk to the examiner over standard input, which is hidden from the completion."""
    channel = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    send(channel, READY)
    job = receive(channel)
    lock_down(job["limits"])
    serve(channel, job)


def serve(channel: int, job: dict[str, Any]) -> None:
    """Run a completion, and answer requests until the examiner is gone.

    Args:
        channel: The descriptor of the examiner's channel.
        job: ``code`` and the ``names`` that tests use.
    """
    completion = _Completion(job["names"])
    link = Link(channel, _Wire(lambda *arguments, **named: link.ask(*arguments, **named)), completion.perform)
    message = {"ask": "run", "items": [job["code"]], "names": []}
    with suppress(Settled):
        while True:
            link.reply(message)
            message = link.receive()


class _Completion:
    """A completion, run as a module of its own and not as the main program."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._space: dict[str, Any] = {}
        self._globals: dict[str, Any] = {}

    def perform(self, operation: str, /, *arguments: Any, **named: Any) -> object:
        try:
            if operation == "run":
                return self._run(*arguments)
            perform = _OPERATIONS.get(operation)
            if perform is not None:
                return perform(*arguments, **named)
            return getattr(type(arguments[0]), operation)(*arguments, **named)
        finally:
            # If the completion rebinds a global, the tests must see the new value too.
            self._globals.update({name: self._space[name] for name in self._names if name in self._space})

    def _run(self, code: str) -> object:
        """Run the code, and return the values of the names that tests use; names that it does not define are left out.

        The dictionary is updated after each later operation.
        """
        module = sys.modules["completion"] = ModuleType("completion")
        self._space = vars(module)
        program = compile(code, "completion", "exec", dont_inherit=True)
        exec(program, self._space)  # noqa: S102  # the one place for it: inside the sandbox
        return self._globals


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
"""Operations by name. Every other operation is a method of the object's class."""


class _Wire(Wire):
    """The candidate's end: its own classes and their objects stay in this process."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        super().__init__(1)
        self._ask = ask

    def class_item(self, kind: type) -> Any:
        number = self.known(kind)
        if number is None:
            bases = [self.item(base) for base in kind.__bases__ if base is not object]
            number = self.number(kind, stays=True)
            compared = _compared(kind)
            names = [name for name, value in vars(kind).items() if not (name == "__hash__" and value is None)]
            self.record("classes", [number, [kind.__module__, kind.__qualname__], bases, names, compared])
        return [number]

    def class_of(self, value: object) -> tuple[Any, bool]:
        item = self.class_item(type(value))
        # Named tuples whose class came from the tests are plain values.
        return item, item[0] in self._staying

    def stand_in_for(self, value: object) -> tuple[Any, list[Any]]:
        return self.class_item(type(value)), []

    def extra(self, value: object) -> int | None:
        """Return the object's hash if its class defines one."""
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
    """Return the fields by which a data class compares its objects, and the comparisons that ``dataclass`` wrote."""
    members = vars(kind)
    own = [name for name in ("__eq__", "__lt__", "__le__", "__gt__", "__ge__") if name in members]
    generated = [
        name for name in own if getattr(getattr(members[name], "__code__", None), "co_filename", "") == _GENERATED
    ]
    if not generated or "__dataclass_fields__" not in members:
        return None
    return [name for name, field in members["__dataclass_fields__"].items() if field.compare], generated
