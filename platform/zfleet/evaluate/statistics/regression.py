"""How much each of several quantities moves a score: coefficients of least squares, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zfleet.evaluate.statistics.estimate import CONFIDENCE, Estimate

_RESAMPLES = 400
_ROWS_FOR_EACH = 3
"""Fewer rows for each coefficient would say nothing of them."""

Values = NDArray[np.float64]


def coefficients(
    quantities: ArrayLike, scores: Sequence[float], weights: Sequence[float], groups: Sequence[Hashable]
) -> list[Estimate] | None:
    """Regress scores on quantities, within groups that each have a mean of their own.

    The intervals are percentiles of a bootstrap over rows (Efron, Annals of Statistics 7, 1979): scores of few shots
    are far from normal. They describe the rows that are there; a search chose them, near where it went.

    Args:
        quantities: [rows, K].
        scores: Of each row.
        weights: How much each row counts: how many shots its score is of.
        groups: Of each row.

    Returns:
        By how much the score moves for one unit of each quantity; None for too few rows, or if nothing varies.
    """
    x, y, w = np.asarray(quantities, float), np.asarray(scores, float), np.asarray(weights, float)
    numbers: dict[Hashable, int] = {}
    places = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    if len(x) < _ROWS_FOR_EACH * (x.shape[1] + len(numbers)) or not np.ptp(x, axis=0).all():
        return None
    found = _fit(x, y, w, places)
    rng = np.random.default_rng(0)
    drawn = (rng.integers(0, len(x), len(x)) for _ in range(_RESAMPLES))
    samples = np.array([_fit(x[rows], y[rows], w[rows], places[rows]) for rows in drawn])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    return [
        Estimate(float(mean), min(float(mean), float(a)), max(float(mean), float(b)))
        for mean, a, b in zip(found, low, high, strict=True)
    ]


def _fit(x: Values, y: Values, weights: Values, places: NDArray[np.int64]) -> Values:
    """Fit by weighted least squares, after the weighted mean of each group was taken away."""
    total = np.bincount(places, weights)
    scale = np.sqrt(weights)
    centred = x - np.array([np.bincount(places, weights * column) / total for column in x.T]).T[places]
    rest = y - (np.bincount(places, weights * y) / total)[places]
    solution: Values = np.linalg.lstsq(centred * scale[:, None], rest * scale, rcond=None)[0]
    return solution
