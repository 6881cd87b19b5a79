"""The contract of search methods as tests: inherit ``MethodConformance`` and give it the method."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import pytest

from zfleet.errors import RewardError
from zfleet.search.method import Method, Score
from zfleet.search.space import Points, Space

SPACE = Space(("a", "b", "c"))
TARGET = np.array([0.15, 0.8, 0.45])


def sphere(point: Points) -> Score:
    """Score a point by its distance from ``TARGET``: 0 is the best."""
    return (-float(((point - TARGET) ** 2).sum()),)


def run(method: Method, generations: int, space: Space = SPACE) -> list[Points]:
    """Search the sphere; return the populations as they were tried."""
    known = np.concatenate([space.base(), space.singles()])
    method.tell(known, [sphere(point) for point in known])
    tried = []
    for _ in range(generations):
        asked = method.ask()
        mixtures = method.mixtures(asked)
        method.tell(asked, [sphere(point) for point in mixtures])
        tried.append(mixtures)
    return tried


class MethodConformance(ABC):
    """What every search method does."""

    @abstractmethod
    def make(self, space: Space = SPACE, *, population: int = 12, seed: int = 0) -> Method:
        """Make the method."""

    def test_asks_whole_populations_within_the_limits(self) -> None:
        for mixtures in run(self.make(), 3):
            assert mixtures.shape == (12, 3)
            assert mixtures.dtype == np.float64
            assert ((mixtures >= 0) & (mixtures <= 1)).all()

    def test_refuses_to_ask_before_it_is_told(self) -> None:
        method = self.make()
        method.ask()
        with pytest.raises(RuntimeError, match="tell them first"):
            method.ask()

    def test_is_deterministic_in_its_seed_and_scores(self) -> None:
        one, same, other = (np.concatenate(run(self.make(seed=seed), 3)) for seed in (3, 3, 4))
        assert (one == same).all()
        assert (one != other).any()

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_refuses_scores_that_are_not_finite(self, bad: float) -> None:
        method = self.make()
        asked = method.ask()
        with pytest.raises(RewardError, match="candidate 5"):
            method.tell(asked, [(bad if place == 5 else 0.0,) for place in range(12)])

    def test_refuses_another_number_of_scores(self) -> None:
        method = self.make()
        with pytest.raises(ValueError, match="11 scores for 12 points"):
            method.tell(method.ask(), [(0.0,)] * 11)

    def test_takes_a_space_of_one_layer_and_more(self) -> None:
        space = Space(("a", "b"), "layer", ("0", "1", "2"))
        asked = self.make(space).ask()
        assert asked.shape == (12, 6)
        centre = self.make(space).centre()
        assert centre is None or centre.shape == (1, 6)
