"""Random search: the baseline that every method has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zfleet.search.method import Score, check_scores
from zfleet.search.space import Points, Space


class RandomSearch:
    """Draw every alpha uniformly between the limits.

    Args:
        space: What to search.
        population: Points of each generation.
        seed: Of all sampling.
    """

    returns_centre = False

    def __init__(self, space: Space, *, population: int = 32, seed: int = 0) -> None:
        self.space = space
        self.population = population
        self._rng = np.random.default_rng(seed)
        self._asked = False

    def ask(self) -> Points:
        """As ``Method.ask``."""
        if self._asked:
            raise RuntimeError("the last population has no scores yet: tell them first")
        self._asked = True
        size = (self.population, self.space.dim)
        return self.space.within(self._rng.uniform(self.space.low, self.space.high, size))

    def tell(self, points: Points, scores: Sequence[Score]) -> None:
        """As ``Method.tell``: nothing is learned."""
        check_scores(points, scores)
        self._asked = False

    def mixtures(self, points: Points) -> Points:
        """As ``Method.mixtures``: the points themselves."""
        return points

    def centre(self) -> None:
        """As ``Method.centre``: there is none."""
