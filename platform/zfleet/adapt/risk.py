"""Bounds that hold with finite samples: of a proportion, and a threshold whose risk is at most the one asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

COVERAGES = tuple(part / 10 for part in range(1, 11))
"""The fractions of prompts among which the one to decide is chosen."""


def upper_bound(events: int, n: int, certainty: float) -> float:
    """Return the upper bound of a proportion of which ``events`` in ``n`` were seen (Clopper and Pearson 1934).

    It is below the true proportion with a probability of at most 1 - ``certainty``, whatever that proportion is.
    """
    return 1.0 if events >= n else float(stats.beta.ppf(certainty, events + 1, n - events))


@dataclass(frozen=True)
class Threshold:
    """A threshold of the confidence, and what it was chosen by.

    Attributes:
        least: The least confidence at which a prompt is decided.
        decided: How many of the prompts.
        wrong: How many of these wrongly.
        risk_at_most: Upper bound of the risk among decided prompts.
    """

    least: float
    decided: int
    wrong: int
    risk_at_most: float


def candidates(confidences: Sequence[float]) -> tuple[float, ...]:
    """Return the thresholds to choose from: one for each of ``COVERAGES``.

    Args:
        confidences: Of prompts by which the threshold is not chosen, without those that are not recognised.
    """
    if not confidences:
        return (0.0,)
    quantiles = np.quantile(np.array(confidences, float), [1 - coverage for coverage in COVERAGES[:-1]])
    # Everything that is recognised, also below the least confidence that these prompts had.
    return tuple(sorted({0.0, *map(float, quantiles)}))


def threshold_for_risk(
    among: Sequence[float], confidences: Sequence[float], right: Sequence[bool], risk: float, certainty: float
) -> Threshold | None:
    """Return the lowest threshold at which the risk, of a wrong label among decided prompts, is surely small enough.

    Each candidate is tested with the exact binomial tail, given how many prompts it decides, and all together by
    Bonferroni's correction: with probability ``certainty`` or more, the risk at the threshold that comes out is at most
    ``risk`` (Angelopoulos et al. 2021, "Learn then Test"; as for selective classification in Geifman and El-Yaniv
    2017). Candidates must not depend on the prompts that are given here.

    Args:
        among: The candidates.
        confidences: Of recognised prompts, which were not used before.
        right: Whether the label of each is right.
        risk: At most so large, above 0 and below 1.
        certainty: Above 0 and below 1.

    Returns:
        None if no candidate passes: the prompts are too few, or the confidences do not tell right from wrong.
    """
    values, wrong = np.array(confidences, float), ~np.array(right, bool)
    each = 1 - (1 - certainty) / len(among)
    for least in sorted(among):
        decided = values >= least
        n, errors = int(decided.sum()), int(wrong[decided].sum())
        if n and stats.binom.cdf(errors, n, risk) <= 1 - each:
            return Threshold(least, n, errors, upper_bound(errors, n, each))
    return None
