"""Rounds in which ways to do the same take turns, timed by the wall clock and by the processor's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hetero.statistics import Estimate, estimate


@dataclass(frozen=True)
class Seconds:
    """What one turn took.

    Attributes:
        wall: By the wall clock.
        cpu: Of this process's threads: what the wall clock shows where nothing else runs, as one thread computes.
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class Pair:
    """Two ways, round by round: entry i of both ran next to each other."""

    ours: tuple[Seconds, ...]
    other: tuple[Seconds, ...]

    def ratio(self) -> dict[str, Any]:
        """How many times as long the other way takes: {median, ci95, coverage, pairs} and the same by ``cpu``."""
        return {**_shown(self._ratios("wall")), "cpu": _shown(self._ratios("cpu"))}

    def seconds(self) -> dict[str, Any]:
        """Medians of both."""
        return {
            "ours": asdict(_median(self.ours)),
            "other": asdict(_median(self.other)),
        }

    def _ratios(self, clock: str) -> Estimate:
        pairs = zip(self.ours, self.other, strict=True)
        return estimate([getattr(other, clock) / getattr(ours, clock) for ours, other in pairs])


def take_turns(ours: Callable[[], object], other: Callable[[], object], rounds: int, tell: Callable[[], None]) -> Pair:
    """Both in every round; who goes first alternates. Each should have run once before."""
    ways = (ours, other)
    taken: tuple[list[Seconds], list[Seconds]] = ([], [])
    for number in range(rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            taken[place].append(_timed(ways[place]))
        tell()
    return Pair(tuple(taken[0]), tuple(taken[1]))


def _timed(way: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def _median(taken: Sequence[Seconds]) -> Seconds:
    return Seconds(estimate([one.wall for one in taken]).median, estimate([one.cpu for one in taken]).median)


def _shown(found: Estimate) -> dict[str, Any]:
    return {
        "median": found.median,
        "ci95": [found.low, found.high],
        "coverage": found.coverage,
        "pairs": found.samples,
    }
