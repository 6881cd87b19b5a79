"""The variance of a mean whose values come in clusters, such as questions that share a passage.

Values of one cluster resemble each other, so that they tell less than as many independent ones (arXiv 2411.00640,
section 2.2). The plain clustered variance is too small for few clusters and for unequal ones; CR2 corrects it, and the
degrees of freedom of Bell and McCaffrey ("Bias reduction in standard errors for linear regression with multi-stage
samples", Survey Methodology 28, 2002) correct the quantile. For clusters of one value both are what they always were:
s^2 / n, and about n - 1.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Clusters = Sequence[Hashable] | None
"""The cluster of each value; None if the values are independent."""


@dataclass(frozen=True)
class Spread:
    """How far a mean may be from the true one.

    Attributes:
        variance: Of the mean.
        freedom: Degrees of freedom with which the variance is known.
        clusters: How many clusters the values are from.
    """

    variance: float
    freedom: float
    clusters: int


def spread_of_mean(values: Sequence[float] | NDArray[np.float64], clusters: Clusters = None) -> Spread | None:
    """Estimate the variance of a mean; None if all values are from one cluster: it shows no spread.

    With residuals e_c summed over cluster c of n_c values among N, the variance is
    sum_c e_c^2 / (1 - n_c / N) / N^2 (CR2 of a regression on a constant).

    Args:
        values: N of them.
        clusters: Of each value.
    """
    array = np.asarray(values, dtype=np.float64)
    total = len(array)
    places = np.arange(total) if clusters is None else _places(clusters)
    if len(places) != total:
        raise ValueError(f"{total} values have {len(places)} clusters")
    sizes = np.bincount(places).astype(np.float64)
    if len(sizes) < 2:
        return None
    residuals = np.bincount(places, array - array.mean(), len(sizes))
    leverage = 1 - sizes / total
    variance = float((residuals**2 / leverage).sum()) / total**2
    # tr(M)^2 / tr(M^2) of the Gram matrix M_cd = a_c a_d (n_c [c = d] - n_c n_d / N), a_c = (1 - n_c / N)^(-1/2).
    crossed = sizes**2 / leverage
    squared = float((sizes**2).sum()) + float(crossed.sum() ** 2 - (crossed**2).sum()) / total**2
    return Spread(variance, total**2 / squared, len(sizes))


def independent_share(values: Sequence[float] | NDArray[np.float64], clusters: Clusters, spread: Spread) -> float:
    """Say what share of the values would tell as much if they were independent: 1 / Kish's design effect.

    An interval of a proportion takes the effective number of samples for the number of samples (Korn and Graubard,
    Survey Methodology 24, 1998). Values that are all equal do not say how much clusters matter: then each cluster
    counts as one value.
    """
    array = np.asarray(values, dtype=np.float64)
    if clusters is None:
        return 1.0
    independent = float(array.var(ddof=1)) / len(array)
    if math.isclose(independent, 0.0, abs_tol=1e-300) or math.isclose(spread.variance, 0.0, abs_tol=1e-300):
        return spread.clusters / len(array)
    return independent / spread.variance


def _places(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)
