"""Ranking candidates by several targets, as NSGA-II does (Deb et al., IEEE Trans. Evolutionary Computation 6, 2002)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fronts(values: NDArray[np.float64]) -> list[list[int]]:
    """Sort candidates into fronts: no candidate of the first is dominated, none of the second but by the first, …

    One candidate dominates another if it is as good in every target and better in one.

    Args:
        values: [candidates, targets]; higher is better.

    Returns:
        The places of each front, ascending.
    """
    as_good = np.all(values[:, None] >= values[None], axis=2)
    dominates = as_good & ~as_good.T
    left, sorted_out = np.arange(len(values)), []
    while len(left):
        free = ~dominates[np.ix_(left, left)].any(axis=0)
        sorted_out.append(left[free].tolist())
        left = left[~free]
    return sorted_out


def best_first(values: NDArray[np.float64]) -> list[int]:
    """Order candidates front by front, and within a front those first that are farthest from their neighbours.

    The best of each target are the first of their front: what is left of it still spans it.

    Args:
        values: [candidates, targets]; higher is better.

    Returns:
        Their places.
    """
    order: list[int] = []
    for front in fronts(values):
        distance = _crowding(values[front])
        order += [front[place] for place in np.argsort(-distance, kind="stable").tolist()]
    return order


def _crowding(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far apart each candidate's neighbours are, as a part of the range, summed over targets: [candidates].

    Args:
        values: [candidates, targets], of one front.
    """
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        if span > 0:
            distance[order[[0, -1]]] = np.inf
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance
