"""Intervals of what was measured once, over its prompts alone.

An accuracy has Wilson's interval. A difference of two accuracies on the same prompts has Wald's for paired proportions
with half a prompt added to each of the four cells (Agresti and Min, Statistics in Medicine 24, 2005), which holds near
0 and 1 too. Other means have Student's t. Clusters lower the number of prompts that both count with, and their number
widens the quantile: see ``clustered``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zfleet.evaluate.statistics.clustered import Clusters, independent_share, spread_of_mean
from zfleet.evaluate.statistics.estimate import CONFIDENCE, Estimate, t_quantile
from zfleet.evaluate.statistics.proportions import wilson


def proportion(right: Sequence[bool], clusters: Clusters = None, confidence: float = CONFIDENCE) -> Estimate:
    """Average what is right or wrong.

    Args:
        right: Of each prompt whether it was answered right.
        clusters: Of each prompt.
        confidence: Of the interval.
    """
    values = np.asarray(right, dtype=np.float64)
    effective, quantile = _effective(values, clusters, confidence)
    if effective is None:
        return Estimate(float(values.mean()), None, None)
    mean = float(values.mean())
    return Estimate(mean, *wilson(mean, effective, quantile))


def paired(
    first: Sequence[bool], second: Sequence[bool], clusters: Clusters = None, confidence: float = CONFIDENCE
) -> Estimate:
    """Subtract the second accuracy from the first, both measured once on the same prompts.

    Args:
        first, second: Of each prompt whether it was answered right, in the same order.
        clusters: Of each prompt.
        confidence: Of the interval.
    """
    return changed(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), clusters, confidence)


def changed(changes: NDArray[np.float64], clusters: Clusters = None, confidence: float = CONFIDENCE) -> Estimate:
    """Average differences between -1 and 1, such as those of two shares of right answers.

    Of differences that are -1, 0 or 1 it is the interval of ``paired``: half a prompt in each of four cells is two
    prompts more, one of which changed, and none on average.

    Args:
        changes: Of each prompt.
        clusters: Of each prompt.
        confidence: Of the interval.
    """
    effective, quantile = _effective(changes, clusters, confidence)
    difference = float(changes.mean())
    if effective is None:
        return Estimate(difference, None, None)
    total = effective + 2
    centre = difference * effective / total
    squares = (float((changes**2).mean()) * effective + 1) / total
    reach = quantile * math.sqrt(max(squares - centre**2, 0.0) / total)
    return Estimate(difference, min(difference, max(-1.0, centre - reach)), max(difference, min(1.0, centre + reach)))


def mean_of(
    values: Sequence[float] | NDArray[np.float64], clusters: Clusters = None, confidence: float = CONFIDENCE
) -> Estimate:
    """Average values of any size, such as rewards, or their differences.

    Args:
        values: Of each prompt.
        clusters: Of each prompt.
        confidence: Of the interval.
    """
    centre = float(np.mean(values))
    spread = spread_of_mean(values, clusters)
    if spread is None:
        return Estimate(centre, None, None)
    reach = t_quantile(spread.freedom, confidence) * math.sqrt(spread.variance)
    return Estimate(centre, centre - reach, centre + reach)


def _effective(values: NDArray[np.float64], clusters: Clusters, confidence: float) -> tuple[float | None, float]:
    """Return how many independent prompts would tell as much, and the interval's quantile; None for one cluster."""
    if clusters is None:
        return float(len(values)), t_quantile(math.inf, confidence)
    spread = spread_of_mean(values, clusters)
    if spread is None:
        return None, math.nan
    return len(values) * independent_share(values, clusters, spread), t_quantile(spread.freedom, confidence)
