"""What a paired difference shows: its p-value, the correction for many comparisons, and what could have been shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zfleet.evaluate.statistics.estimate import CONFIDENCE, Estimate

Interval = Callable[[float], Estimate]
"""The interval of one difference, at any confidence."""

POWER = 0.8
_STEPS = 40
"""Halvings of the range of a p-value: it is exact to 1e-12."""


def p_value(interval: Interval) -> float:
    """Return the least p at which the interval of confidence 1 - p does not hold 0; 1 if there is no interval.

    So that a p-value below .05 and an interval of 95 % without 0 are the same, whichever formula the interval has.
    """
    least, most = 0.0, 1.0
    for _ in range(_STEPS):
        p = (least + most) / 2
        if _holds_zero(interval(1 - p)):
            least = p
        else:
            most = p
    return most


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number: below .05 they hold together, with one mistake in 20 such families at most.

    The k-th least of m is multiplied by m - k + 1, and none is below a lesser one (Holm, Scandinavian Journal of
    Statistics 6, 1979).
    """
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - place)))
        corrected[index] = highest
    return corrected


def detectable(interval: Interval) -> float | None:
    """Return the least true difference that measurements like these would show with a power of 80 %.

    It is the half-width at 95 % plus the distance that 80 % of the estimates stay above: (z_.975 + z_.8) standard
    errors (arXiv 2411.00640, section 5), with the interval's own quantiles in place of the normal ones.

    Returns:
        None if there is no interval.
    """
    halves = [_half(interval(confidence)) for confidence in (CONFIDENCE, 2 * POWER - 1)]
    return None if None in halves else sum(half for half in halves if half is not None)


def _half(estimate: Estimate) -> float | None:
    return None if estimate.low is None or estimate.high is None else (estimate.high - estimate.low) / 2


def _holds_zero(estimate: Estimate) -> bool:
    return estimate.low is None or estimate.high is None or estimate.low <= 0 <= estimate.high
