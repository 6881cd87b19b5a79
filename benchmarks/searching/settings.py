"""What all parts of ``benchmarks/search.py`` are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["torch", "exact", "delta"]
"""The embedded engine, or vLLM with exact linears or with form `delta`."""


@dataclass(frozen=True)
class Settings:
    """Of one run.

    Attributes:
        rounds: Pairs of each ratio: six are the fewest that give an interval of 95 %.
        seeds: Searches of the parts that compare what is found.
        threads: Of torch.
        forms: Engines whose rate is measured.
        tell: Told what is measured next.
    """

    rounds: int
    seeds: int
    threads: int
    forms: tuple[Form, ...]
    tell: Callable[[str], None]


Part = Callable[[Settings], dict[str, Any]]
"""Measures something, and returns figures by name."""
