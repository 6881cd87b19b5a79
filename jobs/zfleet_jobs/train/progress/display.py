"""One display for all experts in training; lines instead of bars if the output is no terminal, such as a job's log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from zfleet_jobs.run_folder.checkpoints import CurvePoint

log = logging.getLogger(__name__)

_LINE_SECONDS = 30.0
"""Without a terminal, the time between two lines about an expert."""


class TrainDisplay:
    """A line for each expert under way and one for all: those that are done are printed above, and make room.

    Training goes on without its display: the first error in it is logged, and later updates are tried again.
    """

    def __init__(self, progress: Progress, steps: dict[str, int]) -> None:
        self._progress = progress
        self._steps = steps
        self._told = dict.fromkeys(steps, time.monotonic())
        self._broken = False
        self._all = progress.add_task("experts", total=len(steps), note="done")
        self._lines: dict[str, TaskID] = {
            name: progress.add_task(name, total=total, note="", start=False, visible=False)
            for name, total in steps.items()
        }

    def update(self, points: Iterable[CurvePoint]) -> None:
        """Show the newest point of each expert."""
        with self._guarded():
            for point in points:
                line = self._lines[point.expert]
                self._progress.start_task(line)
                reward = f"reward {point.metrics['reward']:+.2f}" if "reward" in point.metrics else "none graded"
                note = f"{reward}  {point.metrics['tokens_per_second']:6.0f} tokens/s"
                self._progress.update(line, completed=point.step, note=note, visible=True)
                if self._progress.disable and time.monotonic() - self._told[point.expert] >= _LINE_SECONDS:
                    self._told[point.expert] = time.monotonic()
                    self._print(f"train {point.expert}: step {point.step} of {self._steps[point.expert]}, {note}")

    def done(self, name: str, outcome: str) -> None:
        """Print how an expert ended."""
        with self._guarded():
            self._progress.update(self._lines[name], visible=False)
            self._progress.advance(self._all)
            self._print(f"train {name}: {outcome}")

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            if not self._broken:
                self._broken = True
                log.exception("the display of progress failed; training goes on without it")


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
