"""Asking the other process, which may ask back before it answers."""

from __future__ import annotations

import sys
from _thread import RLock
from collections.abc import Callable
from typing import Any

from .messages import receive, send
from .wire import Wire

_DEPTH = 50_000
"""Calls in each other, while values are packed: tuples may lie in tuples."""

Perform = Callable[..., object]
"""Does what the other process asks: an operation's name, then what it is done with."""


class Settled(BaseException):
    """The verdict, whatever the tests make of this: they cannot catch it for good, as the first one is looked up later.

    Attributes:
        passed: False; None where nobody can tell.
    """

    all: list[Settled] = []  # noqa: RUF012  # this process's

    def __init__(self, passed: bool | None, reason: str) -> None:
        super().__init__(reason)
        self.passed = passed
        Settled.all.append(self)


class Link:
    """One process's end; several threads may use it."""

    def __init__(self, channel: int, wire: Wire, perform: Perform) -> None:
        self.wire = wire
        self._channel = channel
        self._perform = perform
        self._lock = RLock()

    def ask(self, operation: str, /, *arguments: object, **named: object) -> Any:
        """Have an operation performed over there.

        Raises:
            BaseException: What it raised.
            Settled: The other process ended, or spoke nonsense.
        """
        with self._lock:
            if self.wire.reading:
                raise ValueError("a message that only an answer makes readable")
            self._send(lambda: self._question(operation, arguments, named))
            return self.answer()

    def answer(self) -> Any:
        """Wait for what comes of the last question, and do what is asked meanwhile; raises as ``ask``."""
        while "ask" in (message := self.receive()):
            self.reply(message)
        raised = "raised" in message
        with _Theirs():
            value = self.wire.value(message["raised" if raised else "value"])
            self.wire.forget(message.get("forgotten", []))
            if raised and not isinstance(value, BaseException):
                raise TypeError(f"a {type(value).__name__} cannot be raised")
        if raised:
            raise value
        return value

    def receive(self) -> dict[str, Any]:
        """The next message, once its news are read.

        Raises:
            Settled: The other process ended, or spoke nonsense.
        """
        with self._lock, _Theirs():
            message = receive(self._channel)
            self.wire.read(message)
            return message

    def reply(self, message: dict[str, Any]) -> None:
        """Do what a message asks, and say what came of it."""
        try:
            answer, key = self._done(message), "value"
        except Settled:
            raise
        except BaseException as error:
            answer, key = error.with_traceback(None), "raised"
        with self._lock:
            self._send(lambda: {key: self.wire.item(answer)})

    def _question(self, operation: str, arguments: tuple[object, ...], named: dict[str, object]) -> dict[str, Any]:
        items = [self.wire.item(value) for value in (*arguments, *named.values())]
        return {"ask": operation, "items": items, "names": list(named)}

    def _done(self, message: dict[str, Any]) -> object:
        values = [self.wire.value(item) for item in message["items"]]
        self.wire.forget(message.get("forgotten", []))
        first = len(values) - len(message["names"])
        named = dict(zip(message["names"], values[first:], strict=True))
        return self._perform(message["ask"], *values[:first], **named)

    def _send(self, packed: Callable[[], dict[str, Any]]) -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _DEPTH))
        try:
            message = packed()
            message |= self.wire.message()
        except RecursionError as error:
            raise Settled(None, f"a value is too deep to cross: {error}") from error
        except MemoryError as error:
            raise Settled(False, f"a value is too large to cross: {error}") from error
        finally:
            sys.setrecursionlimit(limit)
        with _Theirs():
            send(self._channel, message)


class _Theirs:
    """Whatever goes wrong within it is the other process's doing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EOFError | OSError):
            raise Settled(False, "the tested process ended") from error
        if isinstance(error, Exception):
            raise Settled(False, f"the tested process gave no value that can be read: {error}") from error
