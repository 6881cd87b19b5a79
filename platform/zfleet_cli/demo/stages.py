"""Announce the stages of a demo, and measure their time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Stages:
    """Announces each stage of the demo and measures its time.

    Attributes:
        seconds: {stage: seconds}, in order.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, description: str) -> Iterator[None]:
        """Announce a stage, and measure the block if it succeeds."""
        self._console.print(f"[bold]{name:<9}[/] {description}", highlight=False)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self._console.print(f"[dim]{'':<9} {self.seconds[name]:.1f} s[/]", highlight=False)

    def with_total(self) -> dict[str, float]:
        """Return the seconds of each stage, and the total."""
        return {**self.seconds, "total": time.perf_counter() - self._start}
