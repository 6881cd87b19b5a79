"""The board: where workers of all experts say how far they are, and the driver reads it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zfleet.errors import ZfleetError


@dataclass(frozen=True)
class Row:
    """One step of one expert.

    Attributes:
        expert: Its name.
        step: From 1.
        metrics: What is logged of it.
        pid: Process of the reporting worker.
    """

    expert: str
    step: int
    metrics: dict[str, float]
    pid: int


@dataclass(frozen=True)
class News:
    """What was put on the board since somebody looked.

    Attributes:
        rows: Steps.
        warnings: What the person should know, in order.
        pid: Process of the board: another one has taken its place where it changes.
    """

    rows: list[Row]
    warnings: list[str]
    pid: int


class Board:
    """A Ray actor: what was not read yet, who works, and the errors that ended a run for good."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._warnings: list[str] = []
        self._workers: dict[tuple[str, int], str] = {}
        self._errors: dict[str, list[ZfleetError]] = defaultdict(list)

    def post(self, row: Row) -> None:
        """Add a row."""
        self._rows.append(row)

    def warn(self, text: str) -> None:
        """Pass a warning on to the person."""
        self._warnings.append(text)

    def take(self) -> News:
        """What is new."""
        news = News(self._rows, self._warnings, os.getpid())
        self._rows, self._warnings = [], []
        return news

    def join(self, expert: str, rank: int, where: str) -> None:
        """A worker begins, or begins again.

        Args:
            expert: What it trains.
            rank: Its number.
            where: Its process and machine.
        """
        self._workers[expert, rank] = where

    def lose(self, expert: str, how: Mapping[int, str], then: str) -> None:
        """Workers are gone; unless they ended because of an error of the job, which is reported as itself.

        Args:
            expert: What they trained.
            how: {number: what became of it}.
            then: What happens next.
        """
        if expert in self._errors:
            return
        for rank, became in sorted(how.items()):
            where = self._workers.pop((expert, rank), "")
            self._warnings.append(f"expert {expert}: worker {rank}{where and f' ({where})'} {became}; {then}")

    def fail(self, expert: str, error: ZfleetError) -> None:
        """Say that an expert cannot be trained: its workers need not be restarted."""
        self._errors[expert].append(error)

    def error(self, expert: str) -> ZfleetError | None:
        """The first error that ended an expert's run."""
        errors = self._errors.get(expert)
        return errors[0] if errors else None


def start_board() -> Any:
    """A board on the driver's machine, so that the loss of another one does not take it along.

    Should its process die, Ray starts another and sends again what was not answered.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Board)
    return actor.options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1).remote()
