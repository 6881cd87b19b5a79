"""What calibration finds for one dispatcher, and how decisions follow from it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from zfleet.config.spec import Spec

_LEAST = -1e4
"""Stands for the logarithm of 0."""


class Calibration(Spec):
    """How evidence becomes a probability, and when the dispatcher leaves a prompt to the base.

    Attributes:
        temperature: Divides log-weights before the softmax (Guo et al. 2017, "On Calibration of Modern Neural
            Networks", section 4.2).
        threshold: The least confidence at which the dispatcher decides; None: no confidence is enough.
        limit: The largest novelty of a prompt that is recognised; None: every prompt is.
    """

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    threshold: float | None = Field(0.0, ge=0, le=1)
    limit: float | None = Field(None, allow_inf_nan=False)

    def probabilities(self, log_weights: Mapping[str, float]) -> dict[str, float]:
        """Return the softmax of log-weights over the temperature; none may be NaN."""
        values = softmax(np.array(list(log_weights.values())), self.temperature)
        return dict(zip(log_weights, values.tolist(), strict=True))

    def recognises(self, novelty: float) -> bool:
        """Whether a prompt of this novelty is like those that the dispatcher knows."""
        return self.limit is None or novelty <= self.limit

    def trusts(self, confidence: float) -> bool:
        """Whether the dispatcher decides at this confidence."""
        return self.threshold is not None and confidence >= self.threshold


UNCALIBRATED = Calibration()
"""Takes scores for probabilities, recognises everything, and always decides."""


def softmax(log_weights: np.ndarray, temperature: float) -> np.ndarray:
    """Return the softmax over the last axis of log-weights [..., labels] divided by a temperature."""
    scaled = np.maximum(log_weights, _LEAST) / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: np.ndarray = weights / weights.sum(axis=-1, keepdims=True)
    return result


class Facts(Spec):
    """What calibration measured, on validation prompts by which nothing was chosen but the threshold.

    Attributes:
        prompts: Validation prompts, all together.
        measured: Those that the figures below are of.
        data_digest: sha256 of all validation prompts and their labels.
        labels: Those that were calibrated; a label that was added later is not among them.
        accuracy: The fraction whose most probable label is right; a prompt that is not recognised is not.
        ece: Expected calibration error (``evaluate.statistics.reliability``).
        coverage: The fraction that is decided; the base answers the others.
        risk: The fraction of those that are decided wrong; None if none is.
        risk_asked: The risk that was asked for.
        risk_at_most: Its upper bound that holds with probability ``certainty``; None if none is decided.
        certainty: The probability with which that bound holds.
        strange_at_most: Upper bound, which holds with probability .999, of how often usual prompts are not recognised.
    """

    prompts: int = Field(ge=1)
    measured: int = Field(ge=1)
    data_digest: str
    labels: tuple[str, ...]
    accuracy: float = Field(ge=0, le=1)
    ece: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1)
    risk: float | None = Field(ge=0, le=1)
    risk_asked: float = Field(gt=0, lt=1)
    risk_at_most: float | None = Field(ge=0, le=1)
    certainty: float = Field(gt=0, lt=1)
    strange_at_most: float = Field(gt=0, le=1)
