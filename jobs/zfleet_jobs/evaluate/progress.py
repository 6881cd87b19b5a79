"""How far an evaluation is: a bar with the time that is left, or a line for each stage if the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from zfleet_jobs.compare.progress import Pace, in_words
from zfleet_jobs.evaluate.answers import OnProgress, StageProgress


class Stages:
    """Measures the stages of an evaluation, and passes on how far each is.

    Args:
        tell: Is told, with the seconds that are left; None before the first part of a stage is done.

    Attributes:
        seconds: Of each stage, in order.
    """

    def __init__(self, tell: OnProgress) -> None:
        self.seconds: dict[str, float] = {}
        self._tell = tell
        self._began = time.monotonic()

    def __call__(self, progress: StageProgress) -> None:
        """Take how far a stage is."""
        if not progress.done:
            self._began = time.monotonic()
        self.seconds[progress.stage] = time.monotonic() - self._began
        self._tell(progress)


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Show the stages on the error stream."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, tuple[TaskID, Pace]] = {}

        def show(progress: StageProgress) -> None:
            if progress.stage not in tasks:
                added = bar.add_task(progress.stage, total=progress.total, left="")
                tasks[progress.stage] = (added, Pace(0))
                if bar.disable:
                    console.print(f"{progress.stage}: {progress.total}", markup=False)
            task, pace = tasks[progress.stage]
            left = pace.seconds_left(progress.done, progress.total)
            bar.update(task, completed=progress.done, left="" if progress.done == progress.total else in_words(left))

        yield show
