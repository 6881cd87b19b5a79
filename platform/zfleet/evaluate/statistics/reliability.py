"""Are confidences probabilities? Reliability bins, and the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15
"""As in Guo et al. 2017."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Decisions of about the same confidence.

    Attributes:
        low, high: The bin holds confidences above ``low`` and at most ``high``; the first one holds 0 too.
        n: How many decisions.
        confidence: Their mean confidence.
        accuracy: The fraction of them whose label is right.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> list[ReliabilityBin]:
    """Sort decisions into bins of equal width; empty bins are left out. This is what a reliability diagram shows.

    Args:
        confidences: Of each decision, in [0, 1].
        right: Whether its label is right.
        bins: How many.
    """
    values, hits = np.array(confidences, float), np.array(right, bool)
    places = np.clip(np.ceil(values * bins).astype(int) - 1, 0, bins - 1)
    return [
        ReliabilityBin(
            place / bins, (place + 1) / bins, int(own.sum()), float(values[own].mean()), float(hits[own].mean())
        )
        for place in range(bins)
        if (own := places == place).any()
    ]


def expected_calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float:
    """Return sum over bins of n_b / n |accuracy_b - confidence_b|, with bins of equal width.

    Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; Guo et al. 2017,
    equation 3. It is 0 or more even for perfect confidences, because a bin's accuracy is measured on few prompts.
    """
    found = reliability(confidences, right, bins)
    return sum(one.n * abs(one.accuracy - one.confidence) for one in found) / len(confidences)
