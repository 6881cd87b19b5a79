"""Learning rates over a run: the share of ``lr`` that a step uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}
"""From the share of steps done, 0 before the first, to the share of ``lr``; cosine: arXiv 1608.03983, one cycle."""
