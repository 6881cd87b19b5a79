"""Screening: of many experts, the few that a search is worth its evaluations for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from zfleet.search.method import Score

TWINS = 0.95
"""Experts whose changes have at least this cosine are twins: one of them is enough."""


def screen(scores: Sequence[Score], similarity: NDArray[np.float64], keep: int) -> list[int]:
    """Choose experts by what each scores alone, in turn by each entry of the scores; of twins the better one.

    Few shots tell little by right and wrong, and more by what breaks ties, the likelihood of the right answers; of two
    targets neither decides alone.

    Args:
        scores: Of each expert alone on the shots.
        similarity: [experts, experts], the cosines of their z - 1.
        keep: The most to choose.

    Returns:
        Their places, ascending. Twins follow if the others do not suffice.
    """
    orders = (
        sorted(range(len(scores)), key=lambda place: (*scores[place][entry:], *scores[place][:entry]), reverse=True)
        for entry in range(len(scores[0]))
    )
    order = dict.fromkeys(chain.from_iterable(zip(*orders, strict=True)))
    chosen: list[int] = []
    twins: list[int] = []
    for place in order:
        is_twin = any(similarity[place, other] >= TWINS for other in chosen)
        (twins if is_twin else chosen).append(place)
    return sorted([*chosen, *twins][:keep])
