"""Optuna's samplers as search methods: one owner asks a whole population and tells all of it.

Samplers that learn from generations, such as Optuna's CMA-ES, drop what is told after the next one has begun. Here no
generation begins before the last score of the one before is told, so that no evaluation is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import Trial, create_trial

from zfleet.errors import SpecError
from zfleet.search.method import Score, check_scores
from zfleet.search.space import Points, Space

SamplerName = Literal["tpe", "cmaes", "gp", "nsga2"]

TIE_WEIGHT = 1e-3
"""Optuna compares single numbers: a tie-break in [-100, 0] moves a score by this at most, one shot in a thousand."""


class OptunaSampler:
    """A search by one of Optuna's samplers.

    Args:
        name: Which.
        space: What to search.
        population: Points of each generation; of CMA-ES and NSGA-II it is the size of their population.
        seed: Of all sampling.
        objectives: How many of a score's entries are objectives, 1 or (``nsga2`` alone) 2; the next breaks ties.

    Raises:
        SpecError: Objectives or a space that the sampler does not take.
    """

    returns_centre = False

    def __init__(
        self, name: SamplerName, space: Space, *, population: int = 32, seed: int = 0, objectives: int = 1
    ) -> None:
        if objectives > 1 and name != "nsga2":
            raise SpecError(f"method `{name}` has {objectives} objectives", "give one, or choose `nsga2`")
        if name == "cmaes" and space.dim < 2:
            raise SpecError("method `cmaes` needs two numbers or more, the space has 1", "choose `cem` or `tpe`")
        self.space = space
        self.population = population
        self._objectives = objectives
        self._distributions: dict[str, BaseDistribution] = {
            # A coordinate's place keeps names apart, whatever the experts are called.
            f"{place} {label}": FloatDistribution(space.low, space.high)
            for place, label in enumerate(space.names)
        }
        # Quiet: Optuna would log every trial.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            sampler=_sampler(name, population, seed), directions=["maximize"] * objectives
        )
        self._asked: list[Trial] = []

    def ask(self) -> Points:
        """As ``Method.ask``."""
        if self._asked:
            raise RuntimeError("the last population has no scores yet: tell them first")
        self._asked = [self._study.ask(self._distributions) for _ in range(self.population)]
        return np.array([[trial.params[name] for name in self._distributions] for trial in self._asked])

    def tell(self, points: Points, scores: Sequence[Score]) -> None:
        """As ``Method.tell``. Of other points only those that are told before the first population are used."""
        check_scores(points, scores)
        values = [self._values(score) for score in scores]
        if self._asked:
            for trial, value in zip(self._asked, values, strict=False):
                self._study.tell(trial, value)
        else:
            self._study.add_trials(
                create_trial(
                    params=dict(zip(self._distributions, point.tolist(), strict=True)),
                    distributions=self._distributions,
                    values=value,
                )
                for point, value in zip(points, values, strict=True)
            )
        self._asked = []

    def mixtures(self, points: Points) -> Points:
        """As ``Method.mixtures``: the nearest points within the limits of the space."""
        return self.space.within(points)

    def centre(self) -> None:
        """As ``Method.centre``: samplers do not say."""

    def _values(self, score: Score) -> list[float]:
        tie = max(-100.0, min(0.0, score[self._objectives])) / 100 if len(score) > self._objectives else 0.0
        return [value + TIE_WEIGHT * tie for value in score[: self._objectives]]


def _sampler(name: SamplerName, population: int, seed: int) -> BaseSampler:
    if name == "tpe":
        return TPESampler(seed=seed)
    if name == "cmaes":
        return CmaEsSampler(seed=seed, popsize=population, warn_independent_sampling=False)
    if name == "gp":
        return GPSampler(seed=seed)
    return NSGAIISampler(seed=seed, population_size=population)
