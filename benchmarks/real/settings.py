"""What all parts of ``benchmarks/real_model.py`` are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Of one run.

    Attributes:
        base: A shape, a folder or a hub id (``learning.opened.open_base``).
        threads: Of torch.
        rounds: Pairs of each ratio: six are the fewest that give an interval of 95 %.
        tell: Told what is measured next.
        arc: The folder of ARC's files; without one they come from the hub.
    """

    base: str
    threads: int
    rounds: int
    tell: Callable[[str], None]
    arc: Path | None = None


Part = Callable[[Settings], dict[str, Any]]
"""Measures something, and returns figures by name."""
