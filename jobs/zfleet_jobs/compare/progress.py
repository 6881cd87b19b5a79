"""How far an experiment is: trainings, steps, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass(frozen=True)
class ExperimentProgress:
    """How far an experiment is.

    Attributes:
        trainings: How many there are.
        finished: How many of them have ended, also those that failed.
        steps: Of all trainings.
        steps_done: Of all trainings; a training that has ended counts in full.
        seconds_left: As the steps of this call went so far; None before the first of them.
        note: What has just ended; empty if nothing has.
    """

    trainings: int
    finished: int
    steps: int
    steps_done: int
    seconds_left: float | None = None
    note: str = ""


OnProgress = Callable[[ExperimentProgress], None]
"""Called every few seconds, and when a training ends."""


class Pace:
    """Estimates the time that is left from the steps that were taken since this object was made."""

    def __init__(self, steps_done: int, now: Callable[[], float] = time.monotonic) -> None:
        self._first = steps_done
        self._now = now
        self._began = now()

    def seconds_left(self, steps_done: int, steps: int) -> float | None:
        """Estimate the seconds until all steps are done; None if none was taken yet."""
        taken = steps_done - self._first
        if taken <= 0:
            return None
        return (self._now() - self._began) / taken * (steps - steps_done)


def in_words(seconds: float | None) -> str:
    """Write a time that is left for people, in minutes."""
    if seconds is None:
        return "time left unknown"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes else "less than a minute left"


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Show a bar on the error stream if it is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("trainings {task.fields[trainings]}, steps"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        # A method's name may be a pattern, whose brackets are no markup.
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, trainings="0", left="")

        def show(progress: ExperimentProgress) -> None:
            bar.update(
                task,
                completed=progress.steps_done,
                total=progress.steps,
                trainings=f"{progress.finished}/{progress.trainings}",
                left=in_words(progress.seconds_left),
                description=progress.note or None,
            )

        yield show
