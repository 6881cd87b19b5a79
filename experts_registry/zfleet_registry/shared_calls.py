"""Share the result of a call among the threads that make it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class SharedCalls:
    """Makes one call for all threads that wait for the same (single-flight).

    A thread that comes while a call is under way waits for the next one, so that its result is never older than its
    question: who sets an alias and then resolves it sees the new version.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[Hashable, Future[Any]] = {}
        self._turns: dict[Hashable, _Turn] = {}

    def __call__(self, key: Hashable, call: Callable[[], T]) -> T:
        """Return what ``call`` returns, or raise what it raises, in this thread or in another one.

        Args:
            key: Threads with equal keys share the result.
            call: What to call; begun after this method was.
        """
        with self._lock:
            result = self._next.get(key)
            if result is not None:
                shared = result
            else:
                shared = self._next[key] = Future()
                turn = self._turns.setdefault(key, _Turn())
                turn.waiting += 1
        if result is not None:
            value: T = shared.result()
            return value
        try:
            with turn.lock:
                with self._lock:
                    del self._next[key]
                self._make(call, shared)
        finally:
            with self._lock:
                turn.waiting -= 1
                if not turn.waiting:
                    del self._turns[key]
        made: T = shared.result()
        return made

    @staticmethod
    def _make(call: Callable[[], T], shared: Future[T]) -> None:
        try:
            shared.set_result(call())
        except BaseException as error:
            shared.set_exception(error)


class _Turn:
    """Calls with the same key, one after the other."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting = 0
