"""Supervision of background work: whatever raises there ends what it served, is logged, and shows in health checks.

An asyncio task or a thread that raises dies in silence, and whoever waits for its results waits for ever. ``guarded``
is the rule for any piece of background work; ``WorkLoop`` applies it to a loop that works in turns when it is woken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from zfleet.errors import EngineError, ZfleetError

HANG_SECONDS = 300.0
"""Work that must end and has not ended after this long hangs: far longer than any step of an engine takes."""

_FAILURES_IN_A_ROW = 5
"""A loop that failed this often without one success in between is unhealthy."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0
"""Seconds between a failed turn and the next one; doubled with each failure in a row."""

_LOG = logging.getLogger(__name__)

Fail = Callable[[ZfleetError], None]
"""Ends everything that the work served, with the error to raise there."""


@contextmanager
def guarded(name: str, fail: Fail | None = None) -> Iterator[None]:
    """Run a piece of background work; an exception ends what it served, and does not leave the block.

    Args:
        name: What works here, for the log: "the watch over replicas".
        fail: Called with the exception, or with an ``EngineError`` about it if it is none of zfleet's. If the work is
            cancelled, called with an ``EngineError`` that says so, before the cancellation goes on. None if nobody
            waits for the work: the log is enough.
    """
    try:
        yield
    except Exception as error:
        _LOG.exception("%s failed", name)
        if fail is not None:
            fail(_about(name, error))
    except BaseException:
        if fail is not None:
            fail(_cancelled(name))
        raise


class WorkLoop:
    """A background loop that fails what it serves rather than dying.

    The loop sleeps until ``wake``, then takes turns until one finds nothing to do. A turn that raises is logged,
    ``fail`` ends what the loop served, and the loop goes on after a short pause; after too many of them without a
    ``count_success`` the loop is unhealthy. Only a ``fail`` that raises ends the loop: then ``wake`` and ``check`` say
    so. A loop whose task was cancelled from outside starts again with the next ``wake``.
    """

    def __init__(self, name: str, turn: Callable[[], Awaitable[bool]], fail: Fail) -> None:
        """Prepare a loop; the first ``wake`` starts it.

        Args:
            name: For errors and the log: "the loop of TorchEngine".
            turn: Does one piece of work. Returns False if there was nothing to do.
            fail: See ``Fail``. Afterwards the next turn must be able to begin. Called a second time if it raises, so
                that it can end what it had left.
        """
        self._name = name
        self._turn = turn
        self._fail = fail
        self._task: asyncio.Task[None] | None = None
        self._work = asyncio.Event()
        self._dead: EngineError | None = None
        self._failures = 0
        self._failure = ""
        self._busy_since: float | None = None

    def wake(self) -> None:
        """Have the loop look for work, in the running event loop.

        Raises:
            EngineError: The loop is dead: what waited for it would wait for ever.
        """
        if self._dead is not None:
            raise self._dead
        if self._task is None or self._task.done():
            self._work = asyncio.Event()
            self._task = asyncio.create_task(self._run())
        self._work.set()

    def check(self) -> None:
        """Raise unless the loop works.

        Raises:
            EngineError: It is dead, was stopped, fails again and again, or has been in one ``busy`` block for
                ``HANG_SECONDS``.
        """
        if self._dead is not None:
            raise self._dead
        if self._failures >= _FAILURES_IN_A_ROW:
            raise EngineError(
                f"{self._name} failed {self._failures} times in a row, last with {self._failure}", "start it again"
            )
        if self._busy_since is not None and monotonic() - self._busy_since > HANG_SECONDS:
            raise EngineError(
                f"{self._name} has waited {monotonic() - self._busy_since:.0f} s for one step", "start it again"
            )

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Mark work that must end within ``HANG_SECONDS``."""
        self._busy_since = monotonic()
        try:
            yield
        finally:
            self._busy_since = None

    def count_failure(self, error: Exception) -> None:
        """Log and count a failure that the turn itself has dealt with."""
        _LOG.error("%s failed", self._name, exc_info=error)
        self._failures += 1
        self._failure = f"{type(error).__name__}: {error}"

    def count_success(self) -> None:
        """Count nothing any more of what failed before: something was served to its end."""
        self._failures = 0

    async def stop(self) -> None:
        """End the loop for good, in the middle of a turn if need be; ``fail`` is not called. Idempotent."""
        self._dead = self._dead or EngineError(f"{self._name} was stopped", "start another one")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._dead is None:
                await self._work.wait()
                self._work.clear()
                while self._dead is None and await self._take_turn():
                    pass
        finally:
            if self._dead is None:  # cancelled, but not by ``stop``
                self._end_served(_cancelled(self._name))

    async def _take_turn(self) -> bool:
        try:
            return await self._turn()
        except Exception as error:
            self.count_failure(error)
            self._end_served(_about(self._name, error))
            await asyncio.sleep(min(_FIRST_PAUSE * 2 ** (self._failures - 1), _LONGEST_PAUSE))
            return True

    def _end_served(self, error: ZfleetError) -> None:
        try:
            self._fail(error)
        except Exception as second:
            self.count_failure(second)
            died = f"{self._name} died: {type(second).__name__}: {second}, after this: {error.message}"
            self._dead = EngineError(died, "start another one; the log says more")
            with guarded(self._name):
                self._fail(error)


def _about(name: str, error: Exception) -> ZfleetError:
    if isinstance(error, ZfleetError):
        return error
    return EngineError(f"{name} failed: {type(error).__name__}: {error}", "send the request again; the log says more")


def _cancelled(name: str) -> EngineError:
    return EngineError(f"{name} was cancelled", "send the request again")
