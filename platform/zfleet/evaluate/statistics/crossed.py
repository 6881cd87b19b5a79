"""Intervals of means that were measured with a few seeds (or draws of shots) on the same prompts.

Seeds and prompts are both samples, and an interval has to cover both: half-widths of their own are combined as the
sides of a right angle (square-and-add, Newcombe 1998; MOVER). What the seeds' means differ by only because each is
measured on a sample of prompts is in the prompts' half-width already: it is taken out of the seeds' own, as the
residual mean square of two crossed random effects (Searle, Casella and McCulloch, "Variance Components", 1992).
Two seeds say so little of their spread that nothing is taken out: the interval is wider than it need be then.
One seed says nothing of the spread over seeds, and one prompt nothing of that over prompts: then there is a mean and no
interval. ``single`` has intervals of what was measured once, over the prompts alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zfleet.evaluate.statistics.clustered import Clusters, Spread, spread_of_mean
from zfleet.evaluate.statistics.estimate import CONFIDENCE, Estimate, t_quantile
from zfleet.evaluate.statistics.proportions import wilson
from zfleet.evaluate.statistics.single import changed

_FEWEST_SEEDS = 3
"""To take something out of their variance."""


def accuracy(right: ArrayLike, clusters: Clusters = None, confidence: float = CONFIDENCE) -> Estimate:
    """Average what is right or wrong.

    Args:
        right: [seeds, prompts] bool. The prompts' part is Wilson's interval of the mean, on as many prompts as have its
            variance.
        clusters: Of each prompt.
        confidence: Of the interval.
    """
    values = _matrix(right)
    centre = float(values.mean())
    seeds, prompts = _reach_of_seeds(values, clusters, confidence), spread_of_mean(values.mean(axis=0), clusters)
    if seeds is None or prompts is None:
        return Estimate(centre, None, None)
    quantile = t_quantile(math.inf if clusters is None else prompts.freedom, confidence)
    low, high = wilson(centre, _effective_prompts(centre, prompts, values.shape[1]), quantile)
    return _joined(centre, seeds, centre - low, high - centre).clipped(0.0, 1.0)


def difference(changes: ArrayLike, clusters: Clusters = None, confidence: float = CONFIDENCE) -> Estimate:
    """Average differences between -1 and 1, such as those of right answers: the paired interval.

    Args:
        changes: [seeds, prompts]. The prompts' part is ``single.changed``, which holds near 0 too.
        clusters: Of each prompt.
        confidence: Of the interval.
    """
    matrix = _matrix(changes)
    seeds, prompts = _reach_of_seeds(matrix, clusters, confidence), changed(matrix.mean(axis=0), clusters, confidence)
    if seeds is None or prompts.low is None or prompts.high is None or matrix.shape[1] < 2:
        return Estimate(prompts.mean, None, None)
    mean = prompts.mean
    return _joined(mean, seeds, mean - prompts.low, prompts.high - mean).clipped(-1.0, 1.0)


def average(values: ArrayLike, clusters: Clusters = None, confidence: float = CONFIDENCE) -> Estimate:
    """Average values of any size, such as rewards.

    Args:
        values: [seeds, prompts].
        clusters: Of each prompt.
        confidence: Of the interval.
    """
    matrix = _matrix(values)
    return _around(float(matrix.mean()), matrix, clusters, confidence)


def ratio(above: ArrayLike, below: ArrayLike, confidence: float = CONFIDENCE) -> Estimate | None:
    """Divide one mean by another, both 0 or more; None if the other is 0.

    The interval is by the delta method: near its centre r, a / b moves as (a - r b) / mean(b).

    Args:
        above, below: [seeds, prompts].
        confidence: Of the interval.
    """
    over, under = _matrix(above), _matrix(below)
    if not under.mean():
        return None
    centre = float(over.mean() / under.mean())
    return _around(centre, (over - centre * under) / under.mean(), None, confidence).clipped(0.0, math.inf)


def _around(centre: float, values: NDArray[np.float64], clusters: Clusters, confidence: float) -> Estimate:
    seeds, prompts = _reach_of_seeds(values, clusters, confidence), spread_of_mean(values.mean(axis=0), clusters)
    if seeds is None or prompts is None:
        return Estimate(centre, None, None)
    reach = t_quantile(prompts.freedom, confidence) * math.sqrt(prompts.variance)
    return _joined(centre, seeds, reach, reach)


def _reach_of_seeds(values: NDArray[np.float64], clusters: Clusters, confidence: float) -> float | None:
    """Compute half of Student's t interval over seeds, without what is due to the prompts; None for one seed."""
    count = len(values)
    if count < 2:
        return None
    means = values.mean(axis=1)
    variance = float(means.var(ddof=1))
    if count >= _FEWEST_SEEDS:
        residuals = values - means[:, None] - values.mean(axis=0) + values.mean()
        spreads = [spread_of_mean(row, clusters) for row in residuals]
        by_prompts = float(np.mean([0.0 if spread is None else spread.variance for spread in spreads]))
        variance = max(variance - by_prompts * count / (count - 1), 0.0)
    return t_quantile(count - 1, confidence) * math.sqrt(variance / count)


def _effective_prompts(centre: float, prompts: Spread, count: int) -> float:
    """Return on how many independent prompts a proportion has this variance; for none, each cluster counts as one."""
    if not prompts.variance:
        return float(prompts.clusters)
    return centre * (1 - centre) / prompts.variance * count / (count - 1)


def _joined(centre: float, seeds: float, below: float, above: float) -> Estimate:
    return Estimate(centre, centre - math.hypot(seeds, below), centre + math.hypot(seeds, above))


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"values have shape {list(matrix.shape)}: give [seeds, prompts]")
    return matrix
