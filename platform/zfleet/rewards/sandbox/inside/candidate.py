"""The program that runs a completion and answers calls of what it defined. It never sees a test."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from .lockdown import lock_down
from .messages import READY, receive, send
from .wire import pack, unpack

_LONGEST_MESSAGE = 500


def main() -> None:
    """Talk with the examiner over standard input and output, which the completion does not get."""
    channel = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    send(channel, READY)
    job = receive(channel)
    lock_down(job["limits"])
    objects = _Objects()
    reply = _reply(lambda: _run(job["code"], job["names"], objects))
    while True:
        send(channel, reply)
        request = receive(channel)
        reply = _answer(request, objects)


class _Objects:
    """What the examiner knows by number."""

    def __init__(self) -> None:
        self._held: list[object] = []
        self._numbers: dict[int, int] = {}

    def keep(self, value: object) -> int:
        number = self._numbers.setdefault(id(value), len(self._held))
        if number == len(self._held):
            self._held.append(value)
        return number

    def get(self, number: int) -> object:
        return self._held[number]


def _run(code: str, names: list[str], objects: _Objects) -> Any:
    """What the completion calls each of the names; one that it does not define is left out."""
    # As a module of its own: what a completion does only when it is the main program, it does not do here.
    module = sys.modules["completion"] = ModuleType("completion")
    space = vars(module)
    program = compile(code, "completion", "exec", dont_inherit=True)
    exec(program, space)  # noqa: S102  # the one place for it: inside the sandbox
    return pack({name: space[name] for name in names if name in space}, objects.keep)


def _answer(request: Mapping[str, Any], objects: _Objects) -> dict[str, Any]:
    packed = [*request["arguments"], *request["named"].values()]
    values = [unpack(one, objects.get) for one in packed]
    count = len(request["arguments"])
    named = dict(zip(request["named"], values[count:], strict=True))
    perform = _OPERATIONS[request["operation"]]
    reply = _reply(lambda: pack(perform(*values[:count], **named), objects.keep))
    # Lists and such were copied here: what the call changed in them must be seen where they came from.
    reply["changed"] = {
        str(place): now
        for place, (value, before) in enumerate(zip(values, packed, strict=True))
        if isinstance(value, list | dict | set | bytearray) and (now := pack(value, objects.keep)) != before
    }
    return reply


def _call(function: Callable[..., object], /, *arguments: object, **named: object) -> object:
    return function(*arguments, **named)


_OPERATIONS: dict[str, Callable[..., object]] = {
    "call": _call,
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
}


def _reply(perform: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": perform()}
    except BaseException as error:
        try:
            message = str(error)[:_LONGEST_MESSAGE]
        except BaseException:
            message = ""
        return {"raised": [kind.__name__ for kind in type(error).__mro__], "message": message}
