"""Curves on their way to the registry, which may be away for a while without holding up anything else.

A thread sends them while training goes on. What it could not send is sent when the expert is registered, which waits
for the registry.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from zfleet.errors import RegistryError, RegistryUnreachable, ZfleetError
from zfleet_jobs.run_folder.checkpoints import CurvePoint
from zfleet_registry import ExpertRegistry
from zfleet_registry.runs import RunStatus

WAIT_SECONDS = 300.0
"""How long registration waits for a registry that does not answer."""
PAUSE_SECONDS = 1.0
"""Between two attempts."""
WAITING_POINTS = 10_000
"""How many points wait at most. The run folder has all of them, and ``Curves.complete`` sends what was dropped here."""
IN_EVERY_POINT = "samples"
"""A metric that every step has."""

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class RegistryCalls:
    """Calls to a registry from all threads of a job: one warning when it goes away, and one when it is back.

    Args:
        address: Of the registry, without credentials: warnings show it.

    Attributes:
        stopping: Set when the job ends; nobody waits for the registry any more.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._away_since: float | None = None
        self.stopping = threading.Event()

    def attempt(self, call: Callable[[], Result]) -> Result:
        """Call once.

        Raises:
            RegistryUnreachable: No answer.
            RegistryError: The registry refuses.
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

    def retry(self, call: Callable[[], Result]) -> Result:
        """Call until the registry answers, for at most ``WAIT_SECONDS``; less if the job is stopping.

        Raises:
            RegistryUnreachable: It did not answer.
            RegistryError: The registry refuses.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return self.attempt(call)
            except RegistryUnreachable:
                if time.monotonic() > deadline or self.stopping.wait(PAUSE_SECONDS):
                    raise


class Curves:
    """The registry's runs of a job, one for each expert.

    Args:
        registry: Where curves go.
        calls: How the job calls it.
    """

    def __init__(self, registry: ExpertRegistry, calls: RegistryCalls) -> None:
        self._registry = registry
        self._calls = calls
        self._starts: dict[str, Callable[[], str]] = {}
        self._runs: dict[str, str] = {}
        self._starting = threading.Lock()
        self._points: deque[CurvePoint] = deque(maxlen=WAITING_POINTS)
        self._waiting = threading.Event()
        threading.Thread(target=self._send, name="zfleet-curves", daemon=True).start()

    def begin(self, expert: str, start: Callable[[], str]) -> None:
        """Start an expert's run; later if the registry is away.

        Args:
            expert: Its name.
            start: Starts the run and returns its id.

        Raises:
            RegistryError: The registry refuses.
        """
        self._starts[expert] = start
        with suppress(RegistryUnreachable):
            self._calls.attempt(lambda: self._run(expert))

    def add(self, points: Sequence[CurvePoint]) -> None:
        """Queue points of experts that were begun; they are sent in order when the registry answers."""
        self._points.extend(points)
        if points:
            self._waiting.set()

    def complete(self, expert: str, points: Sequence[CurvePoint]) -> str:
        """Send what the registry's run lacks of an expert's curve, and wait for it.

        Args:
            expert: Its name.
            points: All of its curve.

        Returns:
            The run's id.

        Raises:
            RegistryError: The registry refuses, or does not answer.
        """
        run = self._run(expert)
        logged = {step for step, _ in self._registry.curve(run, IN_EVERY_POINT)}
        missing = [(point.step, point.metrics) for point in points if point.step not in logged]
        if missing:
            self._registry.log_curve(run, missing)
        return run

    def end(self, expert: str, status: RunStatus) -> None:
        """End the run of an expert that was not trained; a registry that is gone must not hide why."""
        if expert in self._runs:
            with suppress(RegistryError):
                self._registry.end_run(self._runs[expert], status)

    def _run(self, expert: str) -> str:
        with self._starting:
            if expert not in self._runs:
                self._runs[expert] = self._starts[expert]()
            return self._runs[expert]

    def _send(self) -> None:
        while not self._calls.stopping.is_set():
            if not self._waiting.wait(PAUSE_SECONDS):
                continue
            self._waiting.clear()
            points = [self._points.popleft() for _ in range(len(self._points))]
            for expert in dict.fromkeys(point.expert for point in points):
                self._send_points(expert, [point for point in points if point.expert == expert])

    def _send_points(self, expert: str, points: Sequence[CurvePoint]) -> None:
        """Send points of one expert; whatever goes wrong, the thread lives on for the others."""
        try:
            self._calls.attempt(lambda: self._log(expert, points))
        except RegistryUnreachable:
            self._points.extendleft(reversed(points))
            self._waiting.set()
            self._calls.stopping.wait(PAUSE_SECONDS)
        except ZfleetError as error:
            # ``complete`` sends these points again and raises the same error. (Starting a run also writes a file, and
            # the disk may be full.)
            log.debug("the curve of expert %s is sent when it is registered: %s", expert, error)
        except Exception:
            log.exception("the curve of expert %s could not be sent; it is sent when the expert is registered", expert)

    def _log(self, expert: str, points: Sequence[CurvePoint]) -> None:
        self._registry.log_curve(self._run(expert), [(point.step, point.metrics) for point in points])
