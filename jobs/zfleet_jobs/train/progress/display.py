"""One display for all experts in training; without bars where the output is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from zfleet_jobs.train.progress.board import Row


class TrainDisplay:
    """A line for each expert under way and one for all: those that are done are told above, and make room."""

    def __init__(self, progress: Progress, steps: dict[str, int]) -> None:
        self._progress = progress
        self._all = progress.add_task("experts", total=len(steps), note="done")
        self._lines: dict[str, TaskID] = {
            name: progress.add_task(name, total=total, note="", start=False, visible=False)
            for name, total in steps.items()
        }

    def update(self, rows: Iterable[Row]) -> None:
        """Show the newest row of each expert."""
        for row in rows:
            line = self._lines[row.expert]
            self._progress.start_task(line)
            reward = f"reward {row.metrics['reward']:+.2f}" if "reward" in row.metrics else "none graded"
            note = f"{reward}  {row.metrics['tokens_per_second']:6.0f} tokens/s"
            self._progress.update(line, completed=row.step, note=note, visible=True)

    def done(self, name: str, how: str) -> None:
        """Say how an expert ended."""
        self._progress.update(self._lines[name], visible=False)
        self._progress.advance(self._all)
        self._progress.console.print(f"train {name}: {how}", markup=False)


@contextmanager
def train_display(steps: dict[str, int]) -> Iterator[TrainDisplay]:
    """Show a display on the error stream inside the block.

    Args:
        steps: {expert: steps it will take}.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("train {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield TrainDisplay(progress, steps)
