"""One process's end of the conversation: each may ask the other, and may ask back before it answers."""

from __future__ import annotations

import sys
from _thread import RLock
from collections.abc import Callable
from typing import Any

from .messages import receive, send
from .wire import Wire

_DEPTH = 50_000
"""The recursion limit while values are packed, for deeply nested tuples."""

Perform = Callable[..., object]
"""Performs an operation for the other process: takes the operation's name, then its arguments."""


class Settled(BaseException):
    """The verdict is settled. A test that catches this cannot change it: the first one raised counts in the end.

    Attributes:
        passed: False; None if nobody can tell.
    """

    all: list[Settled] = []  # noqa: RUF012  # shared on purpose: all that this process raised

    def __init__(self, passed: bool | None, reason: str) -> None:
        super().__init__(reason)
        self.passed = passed
        Settled.all.append(self)


class Link:
    """One process's end of the channel; several threads may use it."""

    def __init__(self, channel: int, wire: Wire, perform: Perform) -> None:
        self.wire = wire
        self._channel = channel
        self._perform = perform
        self._lock = RLock()

    def ask(self, operation: str, /, *arguments: object, **named: object) -> Any:
        """Let the other process perform an operation, and return the result.

        Raises:
            BaseException: The operation raised it.
            Settled: The other process ended, or sent an invalid message.
        """
        with self._lock:
            if self.wire.reading:
                raise ValueError("reading this message would need another question to the process that sent it")
            self._send(lambda: self._question(operation, arguments, named))
            return self.answer()

    def answer(self) -> Any:
        """Wait for the answer to the last question, and serve requests meanwhile; raises as ``ask``."""
        while "ask" in (message := self.receive()):
            self.reply(message)
        raised = "raised" in message
        with _BlameOther():
            value = self.wire.value(message["raised" if raised else "value"])
            self.wire.forget(message.get("forgotten", []))
            if raised and not isinstance(value, BaseException):
                raise TypeError(f"a {type(value).__name__} cannot be raised")
        if raised:
            raise value
        return value

    def receive(self) -> dict[str, Any]:
        """Return the next message after entering its records into the table.

        Raises:
            Settled: The other process ended, or sent an invalid message.
        """
        with self._lock, _BlameOther():
            message = receive(self._channel)
            self.wire.read(message)
            return message

    def reply(self, message: dict[str, Any]) -> None:
        """Perform the operation of a message, and send its result or the exception that it raised."""
        try:
            answer, key = self._performed(message), "value"
        except Settled:
            raise
        except BaseException as error:
            answer, key = error.with_traceback(None), "raised"
        with self._lock:
            self._send(lambda: {key: self.wire.item(answer)})

    def _question(self, operation: str, arguments: tuple[object, ...], named: dict[str, object]) -> dict[str, Any]:
        items = [self.wire.item(value) for value in (*arguments, *named.values())]
        return {"ask": operation, "items": items, "names": list(named)}

    def _performed(self, message: dict[str, Any]) -> object:
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
        with _BlameOther():
            send(self._channel, message)


class _BlameOther:
    """A context in which every error is the other process's fault, and settles the verdict."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EOFError | OSError):
            raise Settled(False, "the tested process ended") from error
        if isinstance(error, Exception):
            raise Settled(False, f"the tested process gave no value that can be read: {error}") from error
