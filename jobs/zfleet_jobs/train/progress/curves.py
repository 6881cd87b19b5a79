"""Curves on their way to the registry: a thread sends them, so that a registry that is away holds up nothing else."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from zfleet.errors import RegistryError, RegistryUnreachable, ZfleetError
from zfleet_jobs.train.patience import PAUSE_SECONDS, Patience
from zfleet_jobs.train.progress.board import Row
from zfleet_registry import ExpertRegistry
from zfleet_registry.runs import RunStatus

WAITING_ROWS = 10_000
"""How many rows wait at most. All rows are kept with the run as well: its end sends what was dropped here."""
IN_EVERY_ROW = "samples"


class Curves:
    """The registry's runs of a job, one for each expert.

    Args:
        registry: Where to.
        patience: What the job knows of it.
    """

    def __init__(self, registry: ExpertRegistry, patience: Patience) -> None:
        self._registry = registry
        self._patience = patience
        self._starts: dict[str, Callable[[], str]] = {}
        self._runs: dict[str, str] = {}
        self._starting = threading.Lock()
        self._rows: deque[Row] = deque(maxlen=WAITING_ROWS)
        self._some = threading.Event()
        threading.Thread(target=self._send, name="zfleet-curves", daemon=True).start()

    def begin(self, expert: str, start: Callable[[], str]) -> None:
        """Start an expert's run; later, where the registry is away.

        Args:
            expert: Its name.
            start: Starts the run and gives its id.

        Raises:
            RegistryError: The registry refuses.
        """
        self._starts[expert] = start
        with suppress(RegistryUnreachable):
            self._patience.ask(lambda: self._run(expert))

    def add(self, rows: Sequence[Row]) -> None:
        """Send rows of experts that were begun, in their order, when the registry answers."""
        self._rows.extend(rows)
        if rows:
            self._some.set()

    def complete(self, expert: str, rows: Sequence[Row]) -> str:
        """Send what the registry's run lacks of an expert's rows, and wait for it.

        Args:
            expert: Its name.
            rows: All of them.

        Returns:
            The run's id.

        Raises:
            RegistryError: The registry refuses, or does not answer.
        """
        run = self._run(expert)
        logged = {step for step, _ in self._registry.curve(run, IN_EVERY_ROW)}
        missing = [(row.step, row.metrics) for row in rows if row.step not in logged]
        if missing:
            self._registry.log_curve(run, missing)
        return run

    def end(self, expert: str, status: RunStatus) -> None:
        """End a run that gave no expert; a registry that is gone must not hide why."""
        if expert in self._runs:
            with suppress(RegistryError):
                self._registry.end_run(self._runs[expert], status)

    def _run(self, expert: str) -> str:
        with self._starting:
            if expert not in self._runs:
                self._runs[expert] = self._starts[expert]()
            return self._runs[expert]

    def _send(self) -> None:
        while not self._patience.stopping.is_set():
            if not self._some.wait(PAUSE_SECONDS):
                continue
            self._some.clear()
            rows = [self._rows.popleft() for _ in range(len(self._rows))]
            for expert in dict.fromkeys(row.expert for row in rows):
                own = [row for row in rows if row.expert == expert]
                try:
                    self._patience.ask(lambda expert=expert, own=own: self._log(expert, own))  # type: ignore[misc]
                except RegistryUnreachable:
                    self._rows.extendleft(reversed(own))
                    self._some.set()
                    self._patience.stopping.wait(PAUSE_SECONDS)
                except ZfleetError:
                    # The same comes out, and ends the expert's run, where its end sends them again. (Starting its run
                    # writes down which one it is, and the disk may be full.)
                    continue

    def _log(self, expert: str, rows: Sequence[Row]) -> None:
        self._registry.log_curve(self._run(expert), [(row.step, row.metrics) for row in rows])
