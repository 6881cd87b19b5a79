"""An estimate and its interval, and the quantiles that intervals are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scipy.special import stdtrit

CONFIDENCE = 0.95
"""Of an interval, unless its caller gives another."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval.

    Attributes:
        mean: Of the values.
        low, high: The interval; None if the values show no spread: there is one of them.
    """

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        bounds = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{bounds}"

    def clipped(self, least: float, most: float) -> Estimate:
        """Cut the interval at the least and the most that the true value can be."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(least, self.low), high=min(most, self.high))


def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Return the distance from 0 that holds ``confidence`` of Student's t distribution (Student 1908).

    Args:
        freedom: Degrees of freedom, above 0; infinite gives the normal distribution's.
        confidence: Above 0 and below 1.
    """
    return float(stdtrit(freedom, (1 + confidence) / 2))
