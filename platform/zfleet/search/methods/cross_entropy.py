"""The cross-entropy method over mixing coefficients.

Sample a population from a Gaussian with independent coordinates, refit its mean and standard deviation to the best
fraction, the elites (``zfleet.search.elites`` has the source and the defaults). Transformer² (arXiv 2501.06252, section
3.2 and appendix) finds mixtures of experts with it. This is zfleet's own form: elites by the whole score, its tie-break
included, and a floor under the standard deviation. ``reference.py`` has the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zfleet.errors import SpecError
from zfleet.search.elites import ELITES, MEAN, POPULATION, STD, STD_FLOOR, draw, elite_count, refit
from zfleet.search.method import Score, check_scores
from zfleet.search.space import Points, Space


class CrossEntropy:
    """One search by the cross-entropy method.

    Args:
        space: What to search.
        population: Points of each generation.
        elites: The fraction that the next generation is fitted to.
        seed: Of all sampling.
        mean: The first mean, [1, dim]; None is the middle of each range.
        std: Every coordinate's first standard deviation, as a fraction of its range. Samples that are clipped to the
            limits are single experts and plain sums.
        std_floor: No coordinate's standard deviation falls below it, as a fraction of its range.

    Raises:
        SpecError: A setting is out of range.
    """

    returns_centre = False

    def __init__(
        self,
        space: Space,
        *,
        population: int = POPULATION,
        elites: float = ELITES,
        seed: int = 0,
        mean: Points | None = None,
        std: float = STD,
        std_floor: float = STD_FLOOR,
    ) -> None:
        if population < 2 or not 0 < elites <= 1:
            raise SpecError(
                f"population is {population} and elites {elites}",
                "give 2 or more, and a fraction above 0 and at most 1",
            )
        if not (std > 0 and std_floor >= 0):
            raise SpecError(f"std is {std} and std_floor {std_floor}", "give a std above 0 and a floor of 0 or more")
        self.space = space
        self.population = population
        self._scale = space.high - space.low
        # Scaled, so that every range is [0, 1].
        self.mean = np.full(space.dim, MEAN) if mean is None else self._scaled(mean.reshape(space.dim))
        self.std = np.full(space.dim, std)
        self._floor = std_floor
        self._elites = elite_count(elites, population)
        self._rng = np.random.default_rng(seed)
        self._asked = False
        self._known: tuple[Points, list[Score]] = (np.empty((0, space.dim)), [])

    @property
    def elite_count(self) -> int:
        """How many points of a population are elites."""
        return self._elites

    def ask(self) -> Points:
        """As ``Method.ask``."""
        if self._asked:
            raise RuntimeError("the last population has no scores yet: tell them first")
        self._asked = True
        return self._unscaled(draw(self._rng, self.mean, self.std, self.population))

    def tell(self, points: Points, scores: Sequence[Score]) -> None:
        """As ``Method.tell``. Other points that are known compete for a place among the elites."""
        check_scores(points, scores)
        if not self._asked:
            self._known = (points, list(scores))
            return
        points, scores = np.concatenate([points, self._known[0]]), [*scores, *self._known[1]]
        self._known = (np.empty((0, self.space.dim)), [])
        # Stable: of equal scores the earlier point wins.
        order = sorted(range(len(points)), key=scores.__getitem__, reverse=True)
        self.mean, self.std = refit(self._scaled(points[order[: self._elites]]), self._floor)
        self._asked = False

    def mixtures(self, points: Points) -> Points:
        """As ``Method.mixtures``: the points themselves."""
        return points

    def centre(self) -> Points:
        """As ``Method.centre``: the mean."""
        return self._unscaled(self.mean[None])

    def _scaled(self, points: Points) -> Points:
        return (points - self.space.low) / self._scale

    def _unscaled(self, points: Points) -> Points:
        return self.space.within(self.space.low + self._scale * points)
