"""The board: workers of all experts report to it how far they are, and the driver reads it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zfleet.errors import ZfleetError
from zfleet_jobs.run_folder.checkpoints import CurvePoint


@dataclass(frozen=True)
class BoardEvents:
    """What was reported since the driver last asked.

    Attributes:
        points: Steps that were taken.
        warnings: What the user should know, in order.
        pid: Process of the board: if it changes, another one has taken its place.
    """

    points: list[CurvePoint]
    warnings: list[str]
    pid: int


class Board:
    """A Ray actor: events that were not read yet, who works, and the errors that ended a run for good."""

    def __init__(self) -> None:
        self._points: list[CurvePoint] = []
        self._warnings: list[str] = []
        self._workers: dict[tuple[str, int], str] = {}
        self._errors: dict[str, list[ZfleetError]] = defaultdict(list)

    def post(self, point: CurvePoint) -> None:
        """Report a step that was taken."""
        self._points.append(point)

    def warn(self, text: str) -> None:
        """Pass a warning on to the user."""
        self._warnings.append(text)

    def take(self) -> BoardEvents:
        """Return what was reported since the last call."""
        events = BoardEvents(self._points, self._warnings, os.getpid())
        self._points, self._warnings = [], []
        return events

    def join(self, cohort: str, rank: int, where: str) -> None:
        """Report that a worker begins, or begins again.

        Args:
            cohort: What it trains.
            rank: Its number.
            where: Its process and machine.
        """
        self._workers[cohort, rank] = where

    def report_deaths(self, cohort: str, causes: Mapping[int, str], then: str) -> None:
        """Report that workers are gone. Ignored if an error of the job ended them, which is reported as itself.

        Args:
            cohort: What they trained.
            causes: {rank: what became of it}.
            then: What happens next.
        """
        if cohort in self._errors:
            return
        for rank, cause in sorted(causes.items()):
            where = self._workers.pop((cohort, rank), "")
            self._warnings.append(f"expert {cohort}: worker {rank}{where and f' ({where})'} {cause}; {then}")

    def fail(self, cohort: str, error: ZfleetError) -> None:
        """Report that a cohort cannot be trained: its workers need not be restarted."""
        self._errors[cohort].append(error)

    def error(self, cohort: str) -> ZfleetError | None:
        """Return the first error that ended a cohort's run, if any."""
        errors = self._errors.get(cohort)
        return errors[0] if errors else None


def start_board() -> Any:
    """Start a board on the driver's machine, so that the loss of another machine does not take it along.

    Should its process die, Ray starts another and sends again what was not answered.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Board)
    return actor.options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1).remote()
