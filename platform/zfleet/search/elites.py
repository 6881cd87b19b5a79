"""One generation of the cross-entropy method: draw candidates from a Gaussian, refit it to the best of them.

Rubinstein's method (Methodology and Computing in Applied Probability 1, 1999). Coordinates are independent and scaled
to [0, 1]. Population and elites are those of Transformer² (arXiv 2501.06252). The file imports NumPy alone: the search
of zfleet and the sampler for Optuna share it, and the sampler works without zfleet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POPULATION = 32
"""Candidates in a generation."""

ELITES = 0.2
"""The fraction that the next generation is fitted to."""

MEAN = 0.5
"""Every coordinate's first mean: the middle of the range."""

STD = 0.5
"""Every coordinate's first standard deviation: about a third of the samples is clipped to 0 or 1."""

STD_FLOOR = 0.02
"""No standard deviation falls below it. Fitted to six elites it shrinks by chance and would end the search early
(Szita and Lőrincz, Neural Computation 18, 2006, add noise for the same reason)."""


def draw(rng: np.random.Generator, mean: Array, std: Array, count: int) -> Array:
    """Draw candidates.

    Args:
        mean, std: [dim].
        count: How many.

    Returns:
        [count, dim] float64, clipped into [0, 1].
    """
    return np.clip(rng.normal(mean, std, size=(count, len(mean))), 0.0, 1.0)


def elite_count(fraction: float, population: int) -> int:
    """Count the elites of a population: rounded down, at least one."""
    return max(1, int(fraction * population))


def refit(elites: Array, std_floor: float) -> tuple[Array, Array]:
    """Fit the next generation's mean and standard deviation to the elites.

    Args:
        elites: [n, dim].
        std_floor: The least standard deviation.

    Returns:
        Both [dim] float64.
    """
    return elites.mean(axis=0), np.maximum(elites.std(axis=0), std_floor)
