"""A registry that is away for a while: a job goes on, says so once, and what it has to store waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from zfleet.errors import RegistryUnreachable

WAIT_SECONDS = 300.0
"""How long registration waits for a registry that does not answer."""
PAUSE_SECONDS = 1.0
log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Patience:
    """What all threads of a job know of its registry.

    Args:
        address: Of the registry, as messages may show it.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._away_since: float | None = None
        self.stopping = threading.Event()

    def ask(self, call: Callable[[], Result]) -> Result:
        """One try.

        Raises:
            RegistryUnreachable: No answer; the first time, a warning says so.
            RegistryError: What the registry refuses.
        """
        try:
            result = call()
        except RegistryUnreachable:
            with self._lock:
                if self._away_since is None:
                    self._away_since = time.monotonic()
                    log.warning(
                        "the registry %s does not answer: training goes on, curves are sent when it is back, and "
                        "registration waits %.0f s for it",
                        self._address,
                        WAIT_SECONDS,
                    )
            raise
        with self._lock:
            if self._away_since is not None:
                log.warning(
                    "the registry %s answers again, after %.0f s", self._address, time.monotonic() - self._away_since
                )
                self._away_since = None
        return result

    def insist(self, call: Callable[[], Result]) -> Result:
        """Try until the registry answers, for ``WAIT_SECONDS``; less where the job is stopping.

        Raises:
            RegistryUnreachable: It did not.
            RegistryError: What the registry refuses.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return self.ask(call)
            except RegistryUnreachable:
                if time.monotonic() > deadline or self.stopping.wait(PAUSE_SECONDS):
                    raise
