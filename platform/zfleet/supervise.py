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

from zfleet.errors import EngineError

HANG_SECONDS = 300.0
"""Work that must end and has not ended after this long hangs: far longer than any step of an engine takes."""

_FAILURES_IN_A_ROW = 5
"""A loop that failed this often without one good turn in between is unhealthy."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0
"""Seconds between a failed turn and the next one; doubled with each failure in a row."""

_LOG = logging.getLogger(__name__)

Fail = Callable[[Exception], None]
"""Ends everything that the work served, with the error that ended the work."""


@contextmanager
def guarded(name: str, fail: Fail) -> Iterator[None]:
    """Run a piece of background work; an exception ends what it served, and does not leave the block.

    Args:
        name: What works here, for the log: "the watch over replicas".
        fail: Called with the exception. When the work is cancelled, called with an ``EngineError`` that says so, before
            the cancellation goes on.
    """
    try:
        yield
    except Exception as error:
        _LOG.exception("%s failed", name)
        fail(error)
    except BaseException as ending:
        fail(EngineError(f"{name} was ended by {type(ending).__name__}", "send the request again"))
        raise


class WorkLoop:
    """A background loop that fails what it serves rather than dying.

    The loop sleeps until ``wake``, then takes turns until one finds nothing to do. A turn that raises is logged,
    ``fail`` ends what the loop served, and the loop goes on after a short pause. Only a ``fail`` that raises ends the
    loop: then ``wake`` and ``check`` say so. A loop whose task was cancelled from outside starts again with the next
    ``wake``.
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
            EngineError: It is dead, fails in every turn, or has been in one ``busy`` block for ``HANG_SECONDS``.
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
        """Log and count a failure that the turn itself has dealt with: such a turn is not a good one."""
        _LOG.error("%s failed", self._name, exc_info=error)
        self._failures += 1
        self._failure = f"{type(error).__name__}: {error}"

    async def stop(self) -> None:
        """End the loop, in the middle of a turn if need be; ``fail`` is not called. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        me = asyncio.current_task()
        try:
            while self._dead is None:
                await self._work.wait()
                self._work.clear()
                while self._dead is None and await self._take_turn():
                    pass
        finally:
            if self._task is me and self._dead is None:  # cancelled, but not by ``stop``
                self._end_served(EngineError(f"{self._name} was cancelled", "send the request again"))

    async def _take_turn(self) -> bool:
        failures = self._failures
        try:
            worked = await self._turn()
        except Exception as error:
            self.count_failure(error)
            self._end_served(error)
            await asyncio.sleep(min(_FIRST_PAUSE * 2 ** (self._failures - 1), _LONGEST_PAUSE))
            return True
        if worked and self._failures == failures:
            self._failures = 0
        return worked

    def _end_served(self, error: Exception) -> None:
        try:
            self._fail(error)
        except Exception as second:
            self.count_failure(second)
            self._dead = EngineError(
                f"{self._name} died: {type(second).__name__}: {second}, after {type(error).__name__}: {error}",
                "start it again; its log has the details",
            )
            with guarded(self._name, lambda _: None):
                self._fail(error)
