"""Screening: of many experts, the few that a search is worth its evaluations for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zfleet.search.method import Score

TWINS = 0.95
"""Experts whose changes have at least this cosine are twins: one of them is enough."""


def screen(scores: Sequence[Score], similarity: NDArray[np.float64], keep: int) -> list[int]:
    """Choose experts by what each scores alone; of twins the better one.

    Args:
        scores: Of each expert alone on the shots.
        similarity: [experts, experts], the cosines of their z - 1.
        keep: The most to choose.

    Returns:
        Their places, ascending. Twins follow if the others do not suffice.
    """
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    chosen: list[int] = []
    twins: list[int] = []
    for place in order:
        is_twin = any(similarity[place, other] >= TWINS for other in chosen)
        (twins if is_twin else chosen).append(place)
    return sorted([*chosen, *twins][:keep])
