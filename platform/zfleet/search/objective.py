"""The objective of a search: from what each shot's answer was worth to a score that candidates are compared by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zfleet.errors import RewardError
from zfleet.search.method import Score

Measured = NDArray[np.float64]
"""[shots, metrics] float64, of one candidate; or [candidates, shots, metrics]."""

ACCURACY, REWARD, LOG_LIKELIHOOD, OWN_LOG_LIKELIHOOD = "accuracy", "reward", "log_likelihood", "own_log_likelihood"
"""Metrics of a shot: whether the answer is right, its reward, the log-likelihood of the reference answer, and the mean
log-likelihood of a token of the answer itself. A reward's parts are metrics by ``part.NAME``."""

PART = "part."


@dataclass(frozen=True)
class Objective:
    """What candidates are compared by.

    Attributes:
        targets: One or two weighted sums of metrics, {metric: weight}; higher is better.
        tie: The metric that breaks ties; None if none does. Of ``own_log_likelihood`` right answers count alone, as in
            the reference implementation, and 0 stands for none.
    """

    targets: tuple[Mapping[str, float], ...] = ({ACCURACY: 1.0},)
    tie: str | None = LOG_LIKELIHOOD

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that have to be measured, in the order of ``Measured``."""
        names = [name for target in self.targets for name in target]
        # Accuracy is reported, whatever is searched for.
        return tuple(dict.fromkeys([*names, *([] if self.tie is None else [self.tie]), ACCURACY]))

    def values(self, measured: Measured) -> NDArray[np.float64]:
        """Return each shot's part in each target, and in the tie-break: [..., shots, targets + 1].

        Args:
            measured: [..., shots, metrics].
        """
        parts = [self._sum(measured, target) for target in self.targets]
        tie = np.zeros_like(parts[0]) if self.tie is None else measured[..., self.metrics.index(self.tie)]
        return np.stack([*parts, tie], axis=-1)

    def score(self, measured: Measured) -> Score:
        """Return the score of one candidate: the mean of each target over the shots, then the tie-break.

        Args:
            measured: [shots, metrics].

        Raises:
            RewardError: A value is not finite; names the metric.
        """
        for place, name in enumerate(self.metrics):
            if not np.isfinite(measured[:, place]).all():
                raise RewardError(
                    f"{name} of a candidate is {measured[:, place].tolist()}", "rewards must be finite numbers"
                )
        targets = tuple(float(self._sum(measured, target).mean()) for target in self.targets)
        return targets if self.tie is None else (*targets, self._tie(measured))

    def _sum(self, measured: Measured, target: Mapping[str, float]) -> NDArray[np.float64]:
        columns = [self.metrics.index(name) for name in target]
        total: NDArray[np.float64] = measured[..., columns] @ np.array(list(target.values()))
        return total

    def _tie(self, measured: Measured) -> float:
        assert self.tie is not None
        values = measured[:, self.metrics.index(self.tie)]
        if self.tie == OWN_LOG_LIKELIHOOD:
            values = values[measured[:, self.metrics.index(ACCURACY)] > 0]
        return float(values.mean()) if len(values) else 0.0
