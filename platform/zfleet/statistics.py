"""Intervals of means that were measured with a few seeds on the same prompts, or once.

Seeds and prompts are both samples, and where there are several seeds an interval has to cover both: half-widths of
their own are combined as the sides of a right angle (square-and-add, Newcombe 1998; MOVER). One seed says nothing of
the spread over seeds, and one prompt nothing of that over prompts: then there is a mean and no interval. ``paired``
compares two single measurements, over the prompts alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy import stats

from zfleet.evaluate import wilson

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        mean: Of the values.
        low, high: The interval over seeds and prompts; None if there is one seed or one prompt: it shows no spread.
    """

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        bounds = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{bounds}"


def accuracy(seeds: Sequence[float], n: int) -> Estimate:
    """Average fractions that are right.

    Args:
        seeds: Of each seed, all measured on the same prompts.
        n: How many prompts. Their part is Wilson's interval of the mean (Wilson 1927).
    """
    centre = mean(seeds)
    low, high = wilson(centre, n)
    return _clipped(_joined(centre, _over_seeds(seeds), centre - low, high - centre), 0.0, 1.0)


def average(seeds: Sequence[float], prompts: Sequence[float]) -> Estimate:
    """Average values of any size; of differences, this is the paired interval.

    Args:
        seeds: Of each seed the mean over prompts.
        prompts: Of each prompt the mean over seeds. Their part is the normal interval.
    """
    reach = _over_prompts(prompts)
    return _joined(mean(seeds), _over_seeds(seeds), reach, reach)


def ratio(seeds: Sequence[tuple[float, float]], prompts: Sequence[tuple[float, float]]) -> Estimate | None:
    """Divide one mean by another, both 0 or more; None if the other is 0.

    Args:
        seeds: Of each seed the two means over prompts.
        prompts: Of each prompt the two means over seeds.

    Both parts are by the delta method: near its centre r, a / b moves as (a - r b) / mean(b).
    """
    below = mean(b for _, b in seeds)
    if not below:
        return None
    centre = mean(a for a, _ in seeds) / below
    moved = [[(a - centre * b) / below for a, b in values] for values in (seeds, prompts)]
    reach = _over_prompts(moved[1])
    return _clipped(_joined(centre, _over_seeds(moved[0]), reach, reach), 0.0, math.inf)


def paired(first: Sequence[bool], second: Sequence[bool]) -> Estimate:
    """Subtract the second accuracy from the first, both measured once on the same prompts.

    The interval covers the prompts alone. It is Wald's for paired proportions with half a prompt added to each of the
    four cells (Agresti and Min, Statistics in Medicine 24, 2005), which holds near 0 and 1 too.

    Args:
        first, second: Of each prompt whether it was answered right, in the same order.
    """
    n = len(first)
    gained = sum(a and not b for a, b in zip(first, second, strict=True))
    lost = sum(b and not a for a, b in zip(first, second, strict=True))
    gains, losses, total = gained + 0.5, lost + 0.5, n + 2
    centre = (gains - losses) / total
    reach = _Z95 * math.sqrt(gains + losses - (gains - losses) ** 2 / total) / total
    difference = (gained - lost) / n
    return Estimate(difference, min(difference, max(-1.0, centre - reach)), max(difference, min(1.0, centre + reach)))


def _over_seeds(values: Sequence[float]) -> float | None:
    """Compute half of Student's t interval (Student 1908)."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def _over_prompts(values: Sequence[float]) -> float | None:
    return _Z95 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _joined(centre: float, seeds: float | None, below: float | None, above: float | None) -> Estimate:
    if seeds is None or below is None or above is None:
        return Estimate(centre, None, None)
    return Estimate(centre, centre - math.hypot(seeds, below), centre + math.hypot(seeds, above))


def _clipped(estimate: Estimate, least: float, most: float) -> Estimate:
    if estimate.low is None or estimate.high is None:
        return estimate
    return Estimate(estimate.mean, max(least, estimate.low), min(most, estimate.high))
