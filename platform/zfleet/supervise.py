"""Supervision of background work: an error ends the requests that the work served, is logged, and shows in checks.

Without it, an asyncio task or a thread that raises dies silently, and its readers wait for ever. Put ``guarded`` around
any piece of background work. ``WorkLoop`` is a supervised loop that works in turns when it is woken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from zfleet.errors import EngineError, ZfleetError

HANG_SECONDS = 300.0
"""Bound on work that must end, far above the longest step of an engine; work that takes longer hangs."""

_FAILURES_IN_A_ROW = 5
"""A loop with so many failures since its last success is unhealthy."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0
"""Seconds between a failed turn and the next one. The pause doubles with each failure in a row."""

_REMEDY = "restart the process; its log says more"

_LOG = logging.getLogger(__name__)

Fail = Callable[[ZfleetError], None]
"""Ends every request that the work serves, with this error."""


@contextmanager
def guarded(name: str, fail: Fail | None = None) -> Iterator[None]:
    """Run a piece of background work. An exception is logged, ends the requests that it served, and stays in the block.

    Args:
        name: The name of the work in log and errors: "the watch over replicas".
        fail: Called with the exception if it is a ``ZfleetError``, otherwise with an ``EngineError`` about it. A
            cancellation calls it with an ``EngineError``, too, and then goes on. None if nobody waits for the work.
    """
    try:
        yield
    except Exception as error:
        _LOG.exception("%s failed", name)
        if fail is not None:
            fail(_as_zfleet_error(name, error))
    except BaseException:
        if fail is not None:
            fail(_cancelled(name))
        raise


class WorkLoop:
    """A background loop that survives errors in its turns.

    The loop sleeps until ``wake``, then takes turns until one finds nothing to do. If a turn raises, the error is
    logged, ``fail`` ends the requests that the loop served, and the loop goes on after a pause. After several failures
    without a ``count_success``, ``check`` raises. If ``fail`` itself raises, the loop is dead, and ``wake`` and
    ``check`` raise. A loop whose task was cancelled from outside starts again with the next ``wake``.
    """

    def __init__(self, name: str, turn: Callable[[], Awaitable[bool]], fail: Fail) -> None:
        """Prepare a loop; the first ``wake`` starts it.

        Args:
            name: The name of the loop in log and errors: "the loop of TorchEngine".
            turn: Does one piece of work. Returns False if there was nothing to do.
            fail: See ``Fail``. It must leave a state in which the next turn can begin. It is called a second time if it
                raises, to end the remaining requests.
        """
        self._name = name
        self._turn = turn
        self._fail = fail
        self._task: asyncio.Task[None] | None = None
        self._work = asyncio.Event()
        self._dead: str | None = None
        self._failures = 0
        self._failure = ""
        self._busy_since: float | None = None

    def wake(self) -> None:
        """Have the loop look for work. Call it in the event loop in which the loop shall run.

        Raises:
            EngineError: The loop is dead or was stopped.
        """
        self._check_alive()
        if self._task is None or self._task.done():
            self._work = asyncio.Event()
            self._task = asyncio.create_task(self._run())
        self._work.set()

    def check(self) -> None:
        """Check that the loop works.

        Raises:
            EngineError: The loop is dead or was stopped, keeps failing, or has been in one ``busy`` block for longer
                than ``HANG_SECONDS``.
        """
        self._check_alive()
        if self._failures >= _FAILURES_IN_A_ROW:
            raise EngineError(
                f"{self._name} failed {self._failures} times in a row, last with {self._failure}", _REMEDY
            )
        waited = 0.0 if self._busy_since is None else monotonic() - self._busy_since
        if waited > HANG_SECONDS:
            raise EngineError(f"{self._name} has waited {waited:.0f} s for one step", _REMEDY)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Mark work that must end within ``HANG_SECONDS``."""
        self._busy_since = monotonic()
        try:
            yield
        finally:
            self._busy_since = None

    def count_failure(self, error: Exception) -> None:
        """Log and count a failure that the turn handled itself."""
        _LOG.error("%s failed", self._name, exc_info=error)
        self._failures += 1
        self._failure = f"{type(error).__name__}: {error}"

    def count_success(self) -> None:
        """Forget earlier failures, because a request was served to its end."""
        self._failures = 0

    async def stop(self) -> None:
        """End the loop for good, even in the middle of a turn. Does not call ``fail``. Idempotent."""
        self._dead = self._dead or f"{self._name} was stopped"
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _check_alive(self) -> None:
        if self._dead is not None:
            raise EngineError(self._dead, _REMEDY)

    async def _run(self) -> None:
        try:
            while self._dead is None:
                await self._work.wait()
                self._work.clear()
                while self._dead is None and await self._take_turn():
                    pass
        finally:
            if self._dead is None:  # cancelled from outside
                self._end_served(_cancelled(self._name))

    async def _take_turn(self) -> bool:
        try:
            return await self._turn()
        except Exception as error:
            self.count_failure(error)
            self._end_served(_as_zfleet_error(self._name, error))
            await asyncio.sleep(min(_FIRST_PAUSE * 2 ** min(self._failures - 1, 20), _LONGEST_PAUSE))
            return True

    def _end_served(self, error: ZfleetError) -> None:
        try:
            self._fail(error)
        except Exception as second:
            self.count_failure(second)
            self._dead = f"{self._name} died: {type(second).__name__}: {second}, after this: {error.message}"
            with guarded(self._name):
                self._fail(error)


def _as_zfleet_error(name: str, error: Exception) -> ZfleetError:
    if isinstance(error, ZfleetError):
        return error
    return EngineError(f"{name} failed: {type(error).__name__}: {error}", "send the request again; the log says more")


def _cancelled(name: str) -> EngineError:
    return EngineError(f"{name} was cancelled", "send the request again")
