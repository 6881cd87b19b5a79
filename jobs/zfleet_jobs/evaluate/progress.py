"""How far an evaluation is: a bar with the time that is left, or a line for each stage if the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from zfleet_jobs.compare.progress import Pace, in_words
from zfleet_jobs.evaluate.answers import OnProgress, StageProgress


def timed(tell: OnProgress, seconds: dict[str, float]) -> OnProgress:
    """Measure the stages of an evaluation while passing on how far each is.

    Args:
        tell: Is told how far each stage is.
        seconds: Gets the seconds of each stage.
    """
    began: dict[str, float] = {}

    def take(progress: StageProgress) -> None:
        now = time.monotonic()
        seconds[progress.stage] = now - began.setdefault(progress.stage, now)
        tell(progress)

    return take


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
