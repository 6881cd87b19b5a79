"""Interference between experts, measured: how far a mixture falls short of one of its experts on that expert's task.

``zfleet.svf.interference`` predicts it from z alone; ``rank_correlation`` says how well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from scipy import stats

from zfleet.errors import RewardError, SpecError
from zfleet.evaluate.statistics.estimate import Estimate
from zfleet.evaluate.statistics.single import paired

Pair = tuple[str, str]

_NEAR_ONE = 0.999
"""Correlations are clipped here before Fisher's transform, which is infinite at 1."""


@dataclass(frozen=True)
class Shortfall:
    """A mixture beside one of its experts, on that expert's task.

    Attributes:
        n: The prompts that were graded under all three z.
        base: Accuracy of the base.
        alone: Accuracy of the expert alone.
        mixed: Accuracy of the mixture.
        shortfall: alone - mixed, with the paired interval over prompts. Below 0, the others in the mixture help.
    """

    n: int
    base: float
    alone: float
    mixed: float
    shortfall: Estimate

    @property
    def kept(self) -> float | None:
        """The part of the expert's gain over the base that the mixture keeps; None if the expert gains nothing."""
        gain = self.alone - self.base
        return (self.mixed - self.base) / gain if gain > 0 else None


def measure_shortfall(
    base: Sequence[float | None], alone: Sequence[float | None], mixed: Sequence[float | None]
) -> Shortfall:
    """Compare a mixture with one of its experts, prompt by prompt.

    Args:
        base, alone, mixed: Rewards under the base, the expert alone and the mixture, of the same prompts of the
            expert's task in the same order; above 0 is right, None was not graded.

    Raises:
        RewardError: No prompt was graded under all three.
    """
    graded = [row for row in zip(base, alone, mixed, strict=True) if None not in row]
    if not graded:
        raise RewardError(
            f"none of {len(base)} prompts was graded under the base, the expert and the mixture",
            "mend the reward function, which gave no grade",
        )
    ways = zip(*graded, strict=True)
    of_base, of_expert, of_mixture = ([reward is not None and reward > 0 for reward in way] for way in ways)
    return Shortfall(len(graded), mean(of_base), mean(of_expert), mean(of_mixture), paired(of_expert, of_mixture))


def rank_correlation(predicted: Mapping[Pair, float], measured: Mapping[Pair, float]) -> Estimate:
    """Compute Spearman's rank correlation over pairs of experts, with a 95 % interval over experts.

    Pairs that share an expert are not independent, so that formulas for independent pairs give too short an interval.
    This one leaves out one expert after the other, with all its pairs: the jackknife for dyads (Snijders and Borgatti,
    Connections 22(2), 1999), on the scale of Fisher's transform, with Student's t of N - 1 for N experts.

    Args:
        predicted, measured: {pair of experts: value}, of the same pairs; each pair once, in either order.

    Returns:
        No interval below five experts, or if every value of a side is the same without one of them.

    Raises:
        SpecError: The pairs differ, or a side is constant: it has no ranks.
    """
    if predicted.keys() != measured.keys():
        raise SpecError(
            f"{len(predicted)} pairs are predicted, {len(measured)} measured, and they are not the same",
            "predict and measure the same pairs",
        )
    pairs = list(predicted)
    whole = _spearman([predicted[pair] for pair in pairs], [measured[pair] for pair in pairs])
    if whole is None:
        raise SpecError(f"all {len(pairs)} values of a side are equal", "rank pairs that differ")
    experts = sorted({expert for pair in pairs for expert in pair})
    count = len(experts)
    without = [
        _spearman(
            [predicted[pair] for pair in pairs if left_out not in pair],
            [measured[pair] for pair in pairs if left_out not in pair],
        )
        for left_out in experts
    ]
    correlations = [one for one in without if one is not None]
    if count < 5 or len(correlations) < count:
        return Estimate(whole, None, None)
    centre, transformed = _fisher(whole), [_fisher(one) for one in correlations]
    middle = mean(transformed)
    error = math.sqrt((count - 2) / (2 * count) * sum((one - middle) ** 2 for one in transformed))
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return Estimate(whole, min(whole, math.tanh(centre - reach)), max(whole, math.tanh(centre + reach)))


def _spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlate ranks; None if a side is constant."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(stats.spearmanr(first, second).statistic)


def _fisher(correlation: float) -> float:
    return math.atanh(max(-_NEAR_ONE, min(_NEAR_ONE, correlation)))
