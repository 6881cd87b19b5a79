"""How sure a mean over a few seeds is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        mean: Of the values.
        low, high: Student's t interval (Student 1908); NaN where one value alone says nothing of its spread.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        bounds = "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{bounds}"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values and how sure it is."""
    centre = mean(values)
    if len(values) < 2:
        return Estimate(centre, math.nan, math.nan)
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Estimate(centre, centre - reach, centre + reach)
