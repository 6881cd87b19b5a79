"""Say while trainings and measurements run how far they are, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from zfleet_jobs.compare.progress import ExperimentProgress, in_words

TRAINING_SHARE = 0.62
"""The trainings' part of a whole run's time; searching and measuring take the rest."""

_EVERY_SECONDS = 60.0


class ProgressLines:
    """Prints a line now and then, and one for each training that ends."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now = now
        self._next = now() + _EVERY_SECONDS

    def __call__(self, progress: ExperimentProgress) -> None:
        """Take in how far the trainings are."""
        if progress.note:
            _print(self._console, progress.note)
        elif self._now() < self._next:
            return
        left = demo_seconds_left(progress)
        _print(
            self._console,
            f"{progress.finished} of {progress.trainings} trainings, {progress.steps_done} of {progress.steps} steps; "
            f"whole demo {in_words(left)}",
        )
        self._next = self._now() + _EVERY_SECONDS


class MeasurementLines:
    """Prints a line for each measurement that is made or found."""

    def __init__(self, console: Console, total: int, now: Callable[[], float] = time.monotonic) -> None:
        """Start the clock.

        Args:
            console: Where to print.
            total: How many measurements there will be.
            now: The clock, in seconds.
        """
        self._console = console
        self._total = total
        self._now = now
        self._began = now()
        self._done = 0

    def __call__(self, what: str) -> None:
        """Count a measurement that has ended."""
        self._done += 1
        each = (self._now() - self._began) / self._done
        left = in_words(each * (self._total - self._done)) if self._done < self._total else "that was the last"
        _print(self._console, f"{self._done} of {self._total}: {what}; {left}")


def demo_seconds_left(progress: ExperimentProgress) -> float | None:
    """Estimate the time that the whole demo will still take, from the pace of its trainings; None if it is unknown."""
    remaining = progress.steps - progress.steps_done
    if progress.seconds_left is None or not remaining:
        return None
    each = progress.seconds_left / remaining
    return progress.seconds_left + each * progress.steps * (1 - TRAINING_SHARE) / TRAINING_SHARE


def _print(console: Console, text: str) -> None:
    console.print(f"{'':<9} {text}", style="dim", highlight=False, markup=False)
