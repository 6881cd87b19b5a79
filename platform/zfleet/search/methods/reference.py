"""The paper's optimiser as its code has it, for comparison with the paper's figures.

The reference implementation (SakanaAI/self-adaptive-llms @03a41ae, `optim_modules.CEM` with
`policy.WeightedCombination`) differs from ``CrossEntropy`` in this: elites are chosen by accuracy alone, of equal ones
those that NumPy's partition happens to leave at the end; the standard deviation divides by n - 1 and has no floor; the
first mean is 1/K; the first point of each population is the best of the last one; of equally accurate points the one
whose right answers are most likely is the best; coefficients are normalised to sum to 1 over the experts.

Its code has coefficients c_k >= 0, z = sum_k c_k z_k, and then rescales each matrix so that its singular values keep
their sum. Experts that keep that sum themselves, as its own do, come out as c_k / sum_j c_j, normalised or not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zfleet.errors import SpecError
from zfleet.search.method import Score, check_scores
from zfleet.search.space import Points, Space


class Reference:
    """The paper's cross-entropy method.

    Args:
        space: What to search; ``matrix`` is what the reference calls per layer.
        population: `pop_size`.
        elites: `elite_ratio`.
        seed: Of all sampling.
        ema: `optim_ema`: how much of the old mean and standard deviation stays.
        best_again: `re_eval_best`: the first point of each population is the best of the last one.
        ties: `use_loglikelihood_for_ties`: whether the score's second entry breaks ties for the best.

    Raises:
        SpecError: A setting is out of range, or the space has limits that the reference does not have.
    """

    returns_centre = True

    def __init__(
        self,
        space: Space,
        *,
        population: int = 32,
        elites: float = 0.2,
        seed: int = 0,
        ema: float = 0.0,
        best_again: bool = True,
        ties: bool = True,
    ) -> None:
        if space.low < 0 or space.sum_to_one or space.max_experts is not None:
            raise SpecError(
                "method `reference` normalises coefficients of 0 or more, but the space sets other limits",
                "leave out space.low, space.sum_to_one and space.max_experts, or choose another method",
            )
        if int(elites * population) < 2 or not 0 <= ema < 1:
            raise SpecError(
                f"population {population} x elites {elites} gives {int(elites * population)} elites, ema is {ema}",
                "give two elites or more, whose standard deviation divides by n - 1, and an ema in [0, 1)",
            )
        self.space = space
        self.population = population
        self.mean = np.full(space.dim, 1 / len(space.experts))
        self.std = np.full(space.dim, (space.high - space.low) / 2)
        self.best = self.mean.copy()
        self._elites = int(elites * population)
        self._ema, self._best_again, self._ties = ema, best_again, ties
        self._rng = np.random.default_rng(seed)
        self._asked: Points | None = None

    def ask(self) -> Points:
        """As ``Method.ask``: coefficients before they are normalised."""
        if self._asked is not None:
            raise RuntimeError("the last population has no scores yet: tell them first")
        normal = self._rng.standard_normal((self.population, self.space.dim))
        self._asked = np.clip(normal * self.std + self.mean, self.space.low, self.space.high)
        if self._best_again:
            self._asked[0] = self.best
        return self._asked.copy()

    def tell(self, points: Points, scores: Sequence[Score]) -> None:
        """As ``Method.tell``; the reference knows no other points than its own."""
        check_scores(points, scores)
        if self._asked is None:
            return
        asked, self._asked = self._asked, None
        first = np.array([score[0] for score in scores[: self.population]])
        equal = np.flatnonzero(first == first.max())
        at = 0
        if self._ties and len(scores[0]) > 1:
            at = int(np.argmax([scores[place][1] for place in equal]))
        self.best = asked[equal[at]].copy()
        elites = asked[np.argpartition(first, -self._elites)[-self._elites :]]
        self.mean = elites.mean(axis=0) * (1 - self._ema) + self._ema * self.mean
        self.std = elites.std(axis=0, ddof=1) * (1 - self._ema) + self._ema * self.std

    def mixtures(self, points: Points) -> Points:
        """As ``Method.mixtures``: c_k / sum_j c_j in each group; 1/K where all are 0, which its code divides by."""
        split = points.reshape(len(points), len(self.space.experts), len(self.space.groups))
        total = split.sum(axis=1, keepdims=True)
        equal = np.full_like(split, 1 / split.shape[1])
        mixtures: Points = np.divide(split, total, out=equal, where=total > 0)
        return mixtures.reshape(points.shape)

    def centre(self) -> Points:
        """As ``Method.centre``: the best point, which the reference returns."""
        return self.mixtures(self.best[None])
