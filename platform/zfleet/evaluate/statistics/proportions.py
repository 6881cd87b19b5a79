"""Wilson's interval of a proportion. It stands alone: the learner needs it, and SciPy takes a second to import."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""The normal distribution's quantile at 97.5 %."""


def wilson(accuracy: float, n: float, quantile: float = Z95) -> tuple[float, float]:
    """Compute Wilson's interval of a proportion (Wilson 1927).

    Args:
        accuracy: The proportion.
        n: How many independent samples it was measured on; of dependent ones, as many as tell as much.
        quantile: The distance from 0 that holds the interval's confidence; by default 95 % of the normal distribution.
    """
    center = accuracy + quantile**2 / (2 * n)
    spread = quantile * math.sqrt(accuracy * (1 - accuracy) / n + quantile**2 / (4 * n**2))
    scale = 1 + quantile**2 / n
    # Exact arithmetic keeps the proportion inside; rounding may not, at 0 and 1.
    return min(accuracy, max(0.0, (center - spread) / scale)), max(accuracy, min(1.0, (center + spread) / scale))
