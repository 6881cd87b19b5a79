"""The cross-entropy method over mixing coefficients: ask for a population, tell its scores, repeat.

Sample a population from a Gaussian with independent coordinates, refit its mean and standard deviation to the best
fraction, the elites (``zfleet.search.elites`` has the source and the defaults). Transformer² (arXiv 2501.06252,
section 3.2 and appendix) finds mixtures of experts with it: coefficients in [0, 1], samples clipped into it, ties
between equally accurate candidates broken by the log-likelihood of correct answers, the best candidate kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zfleet.errors import CheckpointError, RewardError, SpecError
from zfleet.search.coefficients import Points, dimension, known_points
from zfleet.search.elites import ELITES, MEAN, POPULATION, STD, STD_FLOOR, draw, elite_count, refit

Score = tuple[float, ...]
"""Compared entry by entry: (accuracy, log-likelihood of the correct answers). Higher is better."""

FORMAT = "zfleet-cross-entropy/1"


@dataclass(frozen=True)
class Best:
    """The best candidate of all generations.

    Attributes:
        point: [dim], each in [0, 1].
        score: Its score.
    """

    point: tuple[float, ...]
    score: Score


@dataclass(frozen=True)
class Generation:
    """The scores of one population: their first entries.

    Attributes:
        best: The highest.
        mean: Over the population.
    """

    best: float
    mean: float


class CrossEntropy:
    """One search. Deterministic in its arguments and the scores it is told.

    The first population holds the base, every single expert and random mixtures; each later one starts with
    the best candidate so far (it stays an elite, and its score shows in every generation).

    Args:
        experts: How many are mixed.
        layers: How many the base has, if each has its own alphas; None for one alpha an expert.
        population: Candidates in each generation.
        elites: The fraction that the next generation is fitted to.
        seed: Of all sampling.
        mean: Every coordinate's first mean.
        std: Every coordinate's first standard deviation. Samples that are clipped to 0 or 1 are single experts and
            plain sums.
        std_floor: No coordinate's standard deviation falls below it.

    Raises:
        SpecError: A population too small for the base and every single expert, or a setting out of range.
    """

    def __init__(
        self,
        experts: int,
        *,
        layers: int | None = None,
        population: int = POPULATION,
        elites: float = ELITES,
        seed: int = 0,
        mean: float = MEAN,
        std: float = STD,
        std_floor: float = STD_FLOOR,
    ) -> None:
        dim = dimension(experts, layers)
        if population < experts + 1:
            raise SpecError(
                f"population is {population} for {experts} experts",
                f"give at least {experts + 1}: the first one holds the base and every single expert",
            )
        if not 0 < elites <= 1:
            raise SpecError(f"elites is {elites}", "give a fraction above 0 and at most 1")
        if not (0 <= mean <= 1 and std > 0 and std_floor >= 0):
            raise SpecError(f"mean {mean}, std {std}, std_floor {std_floor}", "mean in [0, 1], std above 0")
        self.experts = experts
        self.layers = layers
        self.population = population
        self.elites = elites
        self.std_floor = std_floor
        self.generation = 0
        self.mean = np.full(dim, mean)
        self.std = np.full(dim, std)
        self.best: Best | None = None
        self.history: tuple[Generation, ...] = ()
        self.pending: Points | None = None
        self._rng = np.random.default_rng(seed)

    @property
    def elite_count(self) -> int:
        """How many candidates of a population are elites."""
        return elite_count(self.elites, self.population)

    def ask(self) -> Points:
        """Draw the next population: [population, dim] float64 in [0, 1].

        It stays available as ``pending`` until ``tell`` has its scores.

        Raises:
            RuntimeError: The last population has no scores yet.
        """
        if self.pending is not None:
            raise RuntimeError(f"generation {self.generation} was asked for already: tell its scores first")
        fixed = known_points(self.experts, self.layers) if self.best is None else np.array([self.best.point])
        drawn = draw(self._rng, self.mean, self.std, self.population - len(fixed))
        self.pending = np.concatenate([fixed, drawn])
        return self.pending.copy()

    def tell(self, scores: Sequence[float | Sequence[float]]) -> None:
        """Score the population that was asked for, and fit the next one to its elites.

        Args:
            scores: One for each candidate, in order.

        Raises:
            RuntimeError: There is no population to score.
            ValueError: Another number of scores than candidates, or scores of different lengths.
            RewardError: A score that is not finite.
        """
        if self.pending is None:
            raise RuntimeError("there is nothing to tell: ask for a population first")
        checked = _checked(scores, self.population)
        # Stable: of equal scores the earlier candidate wins.
        order = sorted(range(self.population), key=checked.__getitem__, reverse=True)
        top = order[0]
        if self.best is None or checked[top] > self.best.score:
            self.best = Best(tuple(self.pending[top].tolist()), checked[top])
        self.mean, self.std = refit(self.pending[order[: self.elite_count]], self.std_floor)
        first = [score[0] for score in checked]
        self.history = (*self.history, Generation(max(first), math.fsum(first) / len(first)))
        self.generation += 1
        self.pending = None

    def to_json(self) -> str:
        """Serialise everything, a population that waits for its scores included."""
        return json.dumps(
            {
                "format": FORMAT,
                "experts": self.experts,
                "layers": self.layers,
                "population": self.population,
                "elites": self.elites,
                "std_floor": self.std_floor,
                "generation": self.generation,
                "mean": self.mean.tolist(),
                "std": self.std.tolist(),
                "best": None if self.best is None else [self.best.point, self.best.score],
                "history": [[generation.best, generation.mean] for generation in self.history],
                "pending": None if self.pending is None else self.pending.tolist(),
                "rng": self._rng.bit_generator.state,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> CrossEntropy:
        """Restore a search that goes on exactly as the one that ``to_json`` was called on would have.

        Raises:
            CheckpointError: Not the state of a search.
        """
        try:
            state: dict[str, Any] = json.loads(text)
            if state["format"] != FORMAT:
                raise ValueError(f"its format is {state['format']!r}, not {FORMAT!r}")
            search = cls(
                state["experts"],
                layers=state["layers"],
                population=state["population"],
                elites=state["elites"],
                std_floor=state["std_floor"],
            )
            search.generation = state["generation"]
            search.mean = np.array(state["mean"], dtype=np.float64)
            search.std = np.array(state["std"], dtype=np.float64)
            search.history = tuple(Generation(best, mean) for best, mean in state["history"])
            if state["best"] is not None:
                search.best = Best(tuple(state["best"][0]), tuple(state["best"][1]))
            if state["pending"] is not None:
                search.pending = np.array(state["pending"], dtype=np.float64)
            search._rng.bit_generator.state = state["rng"]
        except (ValueError, KeyError, TypeError, SpecError) as error:
            raise CheckpointError(f"this is no state of a search: {error!r}", "start the search again") from error
        return search


def _checked(scores: Sequence[float | Sequence[float]], count: int) -> list[Score]:
    if len(scores) != count:
        raise ValueError(f"{len(scores)} scores for {count} candidates")
    checked = [tuple(map(float, score)) if isinstance(score, Sequence) else (float(score),) for score in scores]
    if not checked[0] or len({len(score) for score in checked}) > 1:
        raise ValueError(f"scores have different lengths: {sorted({len(score) for score in checked})}")
    for index, score in enumerate(checked):
        if not all(map(math.isfinite, score)):
            raise RewardError(f"the score of candidate {index} is {score}", "scores must be finite numbers")
    return checked
