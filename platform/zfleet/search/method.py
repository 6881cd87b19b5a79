"""The contract of search methods: ask for a population, tell its scores, repeat.

``zfleet.testing.method_conformance`` is the contract as tests; every method passes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from zfleet.errors import RewardError
from zfleet.search.space import Points

Score = tuple[float, ...]
"""Compared entry by entry, higher is better: the objectives in order, then what breaks their ties."""


class Method(Protocol):
    """A search method. It is deterministic in its arguments, its seed and the scores it is told.

    Attributes:
        population: How many points ``ask`` gives.
        returns_centre: Whether the outcome of a search is the method's ``centre``, without finals.
    """

    population: int
    returns_centre: bool

    def ask(self) -> Points:
        """Return the next population: [population, dim] float64.

        Raises:
            RuntimeError: The last population has no scores yet.
        """

    def tell(self, points: Points, scores: Sequence[Score]) -> None:
        """Take scores: of the population that was asked for first, in order, then of other points that are known.

        Before the first ``ask`` all points are others, such as the base and single experts.

        Args:
            points: [n, dim]; the asked ones as they were tried, within the limits of the space.
            scores: [n].

        Raises:
            RewardError: A score is not finite.
        """

    def mixtures(self, points: Points) -> Points:
        """Return the alphas that are tried for asked points, within the limits of the space: [n, dim]."""

    def centre(self) -> Points | None:
        """Return the point that the method has come to believe in, beside those it tried: [1, dim]; None if none."""


def check_scores(points: Points, scores: Sequence[Score]) -> None:
    """Refuse scores that a method cannot take.

    Raises:
        ValueError: There are not as many as points, or their lengths differ.
        RewardError: One is not finite.
    """
    if len(points) != len(scores) or len({len(score) for score in scores}) > 1:
        raise ValueError(f"{len(scores)} scores for {len(points)} points, of lengths {sorted({*map(len, scores)})}")
    for place, score in enumerate(scores):
        if not all(map(math.isfinite, score)):
            raise RewardError(f"the score of candidate {place} is {score}", "scores must be finite numbers")
