"""Stages: what runs now, and how long each took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Stages:
    """Announces each stage of a long run and measures it.

    Attributes:
        seconds: {stage: seconds}, in order.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """One stage."""
        self._console.print(f"[bold]{name:<9}[/] {what}", highlight=False)
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
        self._console.print(f"[dim]{'':<9} {self.seconds[name]:.1f} s[/]", highlight=False)

    def with_total(self) -> dict[str, float]:
        """The seconds of each stage, and in all."""
        return {**self.seconds, "total": time.perf_counter() - self._began}
