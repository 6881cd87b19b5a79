"""The gateway's line to the registry: a few threads for its blocking calls, and a log entry when it goes away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import RegistryUnreachable
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertVersion
from zfleet_registry.promotion import Traffic
from zfleet_serve.adaptive.last_known import NEW_SECONDS

THREADS = 4
"""The most questions at once. A question that hangs, on a lock for example, holds a thread until it ends."""

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Registry(Protocol):
    """The part of ``ExpertRegistry`` that serving uses; its calls block."""

    def resolve(self, reference: str, base_slug: str | None = None) -> ExpertVersion: ...

    def traffic(self, base_slug: str, name: str) -> Traffic: ...

    def load(self, version: ExpertVersion) -> ZVector: ...

    def load_dispatcher(self, version: ExpertVersion) -> StoredDispatcher: ...

    def list(self, base_slug: str | None = None) -> list[ExpertVersion]: ...


class RegistryLine:
    """Asks one registry.

    Args:
        open_registry: Opens the registry, in a thread; it is called again after it failed.
    """

    def __init__(self, open_registry: Callable[[], Registry]) -> None:
        self._open_registry = open_registry
        self._registry: Registry | None = None
        self._opening = asyncio.Lock()
        self._free = asyncio.Semaphore(THREADS)
        # Its own threads, because those of the event loop serve others, too.
        self._threads = ThreadPoolExecutor(THREADS, "zfleet-registry")
        self._away_since: float | None = None

    @property
    def away(self) -> bool:
        """Whether the registry did not answer the last question."""
        return self._away_since is not None

    async def ask(self, question: Callable[[Registry], T]) -> T:
        """Ask in a thread, however long that takes.

        Raises:
            RegistryUnreachable: It does not answer, or too many questions hang already.
            ZfleetError: The registry refuses the question.
        """
        try:
            try:
                async with asyncio.timeout(NEW_SECONDS):
                    await self._free.acquire()
            except TimeoutError:
                raise RegistryUnreachable(
                    f"{THREADS} questions to the registry hang", "try again", "no answer in time"
                ) from None
            try:
                answer = await self._in_thread(partial(question, await self.open()))
            finally:
                self._free.release()
        except RegistryUnreachable as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                _LOG.warning("the registry is away; experts that are loaded stay in use: %s", error)
            raise
        if self._away_since is not None:
            _LOG.warning("the registry answers again, after %.0f s", time.monotonic() - self._away_since)
            self._away_since = None
        return answer

    async def open(self) -> Registry:
        """Open the registry, unless it is open.

        Raises:
            RegistryError: It cannot be reached, or cannot be used.
        """
        async with self._opening:
            if self._registry is None:
                self._registry = await self._in_thread(self._open_registry)
            return self._registry

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
