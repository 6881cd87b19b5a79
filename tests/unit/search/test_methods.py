"""Every search method keeps the contract, and those that learn find the optimum of a sphere."""

from __future__ import annotations

import numpy as np
import pytest

from zfleet.errors import SpecError
from zfleet.search.method import Method
from zfleet.search.methods.cross_entropy import CrossEntropy
from zfleet.search.methods.optuna_sampler import OptunaSampler, SamplerName
from zfleet.search.methods.random_search import RandomSearch
from zfleet.search.methods.reference import Reference
from zfleet.search.space import Space
from zfleet.testing.method_conformance import SPACE, TARGET, MethodConformance, run, sphere


class TestCrossEntropy(MethodConformance):
    def make(self, space: Space = SPACE, *, population: int = 12, seed: int = 0) -> Method:
        return CrossEntropy(space, population=population, seed=seed)


class TestReference(MethodConformance):
    def make(self, space: Space = SPACE, *, population: int = 12, seed: int = 0) -> Method:
        return Reference(space, population=population, seed=seed)


class TestRandom(MethodConformance):
    def make(self, space: Space = SPACE, *, population: int = 12, seed: int = 0) -> Method:
        return RandomSearch(space, population=population, seed=seed)


class TestTpe(MethodConformance):
    def make(self, space: Space = SPACE, *, population: int = 12, seed: int = 0) -> Method:
        return OptunaSampler("tpe", space, population=population, seed=seed)


class TestCmaEs(MethodConformance):
    def make(self, space: Space = SPACE, *, population: int = 12, seed: int = 0) -> Method:
        return OptunaSampler("cmaes", space, population=population, seed=seed)


class TestNsga2(MethodConformance):
    def make(self, space: Space = SPACE, *, population: int = 12, seed: int = 0) -> Method:
        return OptunaSampler("nsga2", space, population=population, seed=seed)


def test_a_gaussian_process_looks_near_the_optimum_that_its_points_show() -> None:
    # Without the contract's tests: its populations take seconds each.
    method = OptunaSampler("gp", SPACE, population=2)
    known = np.random.default_rng(0).uniform(0, 1, (20, 3))
    method.tell(known, [sphere(point) for point in known])
    assert np.abs(method.ask() - TARGET).max(axis=1).min() < 0.3


@pytest.mark.parametrize(
    ("method", "near"),
    [
        (CrossEntropy(SPACE, seed=3), 0.03),
        (Reference(SPACE, seed=3), None),
        (RandomSearch(SPACE, seed=3), 0.3),
        (OptunaSampler("cmaes", SPACE, seed=3), 0.1),
    ],
    ids=["cem", "reference", "random", "cmaes"],
)
def test_finds_the_optimum_of_a_sphere(method: Method, near: float | None) -> None:
    tried = np.concatenate(run(method, 12))
    best = tried[np.argmax([sphere(point)[0] for point in tried])]
    # The reference's coefficients sum to 1: the optimum is the nearest point that does.
    target = TARGET if near is not None else TARGET - (TARGET.sum() - 1) / 3
    assert np.abs(best - target).max() < (near or 0.05)


def test_no_evaluation_of_a_whole_population_is_lost() -> None:
    # CMA-ES refits once for each population: its spread shrinks towards the optimum, generation by generation.
    tried = run(OptunaSampler("cmaes", SPACE, population=16, seed=1), 12)
    spread = [population.std(axis=0).mean() for population in tried]
    assert spread[-1] < spread[1] / 3


def test_two_objectives_are_for_nsga2_alone() -> None:
    names: tuple[SamplerName, ...] = ("tpe", "cmaes", "gp")
    for name in names:
        with pytest.raises(SpecError, match="choose `nsga2`"):
            OptunaSampler(name, SPACE, objectives=2)
    method = OptunaSampler("nsga2", SPACE, population=8, objectives=2)
    for _ in range(4):
        asked = method.ask()
        method.tell(asked, [(float(point[0]), float(1 - point[0]), -1.0) for point in asked])
    assert method.ask().shape == (8, 3)


def test_the_cross_entropy_method_begins_where_it_is_told() -> None:
    mean = np.array([[0.9, 0.1, 0.5]])
    asked = CrossEntropy(SPACE, population=400, std=0.1, mean=mean).ask()
    assert np.abs(np.median(asked, axis=0) - mean[0]).max() < 0.05


def test_cma_es_needs_two_numbers() -> None:
    with pytest.raises(SpecError, match="choose `cem`"):
        OptunaSampler("cmaes", Space(("a",)))
