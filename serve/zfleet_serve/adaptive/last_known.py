"""Answers of a registry that may be away: the last known answer stays in use."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Generic, TypeVar

from zfleet.errors import ExpertNotFound, RegistryError, RegistryUnreachable

FRESH_SECONDS = 1.0
"""How often names in use are resolved: a promoted alias takes effect within about this time."""
OLD_SECONDS = 5.0
"""How old an answer may be that a request uses without asking the registry."""
KNOWN_SECONDS = 0.25
"""How long a request waits for a newer answer if it has one."""
NEW_SECONDS = 0.8
"""How long a request waits for an answer if it has none."""

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


async def within(work: asyncio.Task[T], seconds: float) -> T:
    """Wait for the result of a task. The task goes on when the time is over or when its reader leaves.

    Raises:
        RegistryUnreachable: The time is over.
    """
    done, _ = await asyncio.wait([work], timeout=max(0.0, seconds))
    if not done:
        raise RegistryUnreachable(
            f"the registry gave no answer within {seconds:.1f} s", "try again", "no answer in time"
        )
    return work.result()


def begin(work: Coroutine[object, object, T]) -> asyncio.Task[T]:
    """Start work for which nobody may wait when it fails."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


class LastKnown(Generic[T]):
    """One question to the registry. It is asked once at a time, for all who wait for the answer.

    Args:
        ask: Asks the question; raises ``ExpertNotFound`` if the last answer is no longer true.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._known: list[T] = []
        self._looked = self._answered = -math.inf
        self._used = -math.inf
        self._asking: asyncio.Task[T] | None = None
        self._refused = ""

    @property
    def empty(self) -> bool:
        """Whether no answer is known, and nobody asks."""
        return not self._known and self._asking is None

    async def get(self) -> T:
        """Return an answer that is at most ``OLD_SECONDS`` old, or the last known one if the registry gives none.

        Raises:
            ExpertNotFound: The registry has no such expert.
            RegistryError: The registry cannot answer, and has not answered before.
        """
        now = self._used = time.monotonic()
        # A registry that gave no answer a moment ago is not asked again by every request.
        asked_lately = self._asking is None and now - self._looked < FRESH_SECONDS
        if self._known and (asked_lately or now - self._answered < OLD_SECONDS):
            return self._known[0]
        asking = self.refreshed()
        # With a known answer, the wait counts from the question on, so that only the first requests wait at all.
        patience = self._looked + KNOWN_SECONDS - now if self._known else NEW_SECONDS
        try:
            return await within(asking, patience)
        except ExpertNotFound:
            raise
        except RegistryError:
            if not self._known:
                raise
            return self._known[0]

    def used_within(self, seconds: float) -> bool:
        """Whether a request asked for it lately."""
        return time.monotonic() - self._used < seconds

    def refreshed(self) -> asyncio.Task[T]:
        """Ask the question unless it is being asked, and return the task, however long it takes."""
        if self._asking is None:
            self._looked = time.monotonic()
            self._asking = begin(self._refresh())
        return self._asking

    async def _refresh(self) -> T:
        try:
            self._known = [await self._ask()]
            self._answered = time.monotonic()
        except ExpertNotFound:
            self._known = []
            raise
        except RegistryUnreachable:
            raise  # ``RegistryLine`` logs that the registry is away
        except RegistryError as error:
            # For example a promotion to a damaged version. Requests get the last answer, so nobody else hears of it.
            if self._known and str(error) != self._refused:
                _LOG.error("the registry's last answer stays in use: %s", error)
            self._refused = str(error)
            raise
        finally:
            self._looked = time.monotonic()
            self._asking = None
        self._refused = ""
        return self._known[0]
