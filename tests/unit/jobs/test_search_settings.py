"""How a search is made from its spec: the method, what breaks ties, races, and limits that a method cannot keep."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from zfleet.config.load import parse_spec
from zfleet.config.search import MethodName, SearchMethodSpec, SearchSpec, SpaceSpec
from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.errors import SpecError
from zfleet.search.methods.cross_entropy import CrossEntropy
from zfleet.search.methods.reference import Reference
from zfleet.search.objective import Objective
from zfleet.search.space import Points, Space
from zfleet.tasks.lab import lab_task
from zfleet.testing.fake_engine import fake_z
from zfleet_jobs.search.problem import SearchProblem, shots_of
from zfleet_jobs.search.settings import SearchSettings

SPACE = Space(("a", "b", "c"))


def settings(**values: Any) -> SearchSettings:
    parts = {"right": {}, "short": {"kind": "length", "value": "9"}}
    task = {"jsonl": "rows.jsonl", "reward": {"kind": "sum", "parts": parts}}
    spec = {"experts": ["a", "b", "c"], "task": task, "name": "mix", "engine": "torch", **values}
    return SearchSettings.of(parse_spec(spec, SearchSpec))


def test_a_spec_without_choices_searches_as_settings_without_choices_but_races() -> None:
    assert settings() == SearchSettings(block=2)
    assert settings(racing=False) == SearchSettings()


def test_every_choice_of_a_spec_arrives() -> None:
    chosen = settings(
        population=12,
        generations=3,
        method={"name": "nsga2"},
        space={"alphas": "kind", "low": -1, "screen": 2},
        objective=[{"accuracy": 1, "part.short": 0.5}, "reward"],
        block=4,
        temperature=0.7,
        trials_per_generation=3,
        engine={"kind": "torch", "slots": 5},
        resources={"cpus": 2},
        seed=9,
        study="sqlite:///studies.db",
    )
    assert chosen == SearchSettings(
        population=12,
        generations=3,
        method=SearchMethodSpec(name="nsga2"),
        space=SpaceSpec(alphas="kind", low=-1, screen=2),
        objective=Objective(({"accuracy": 1.0, "part.short": 0.5}, {"reward": 1.0})),
        block=4,
        keep=2,
        temperature=0.7,
        trials_per_generation=3,
        engine=EngineSpec(slots=5),
        resources=ResourceSpec(cpus=2),
        seed=9,
        study="sqlite:///studies.db",
    )


def test_the_papers_code_breaks_ties_by_the_answers_themselves_and_does_not_race() -> None:
    papers = settings(method="reference")
    assert papers.objective == Objective(tie="own_log_likelihood")
    assert papers.block is None
    assert settings().objective.tie == "log_likelihood"


@pytest.mark.parametrize("name", get_args(MethodName))
def test_every_method_that_a_spec_can_name_is_made_with_population_and_seed(name: MethodName) -> None:
    first, same, other = (
        SearchSettings(population=12, method=SearchMethodSpec(name=name), seed=seed).make_method(SPACE)
        for seed in (5, 5, 6)
    )
    points = first.ask()
    assert points.shape == (first.population, 3) == (12, 3)
    assert (points == same.ask()).all()
    assert not np.array_equal(points, other.ask())


def test_the_cross_entropy_method_begins_at_a_mean_and_others_draw_as_without() -> None:
    def asked(name: MethodName, mean: Points | None) -> Points:
        return SearchSettings(population=12, method=SearchMethodSpec(name=name)).make_method(SPACE, mean).ask()

    mean = np.full((1, 3), 0.9)
    begun = SearchSettings().make_method(SPACE, mean)
    assert isinstance(begun, CrossEntropy)
    assert begun.mean.tolist() == [0.9] * 3
    names: tuple[MethodName, ...] = ("random", "tpe", "cmaes", "nsga2")
    for name in names:
        assert (asked(name, mean) == asked(name, None)).all()


def test_a_method_gets_its_own_settings() -> None:
    ours = settings(population=10, method={"name": "cem", "elites": 0.5, "std_floor": 0.1}).make_method(SPACE)
    assert isinstance(ours, CrossEntropy)
    assert ours.elite_count == 5
    # All scores are equal and all points are elites: the spread falls to the floor alone.
    for _ in range(2):
        ours.tell(np.zeros((10, 3)), [(0.0,)] * len(ours.ask()))
    assert ours.std.tolist() == [0.1] * 3
    papers = settings(population=10, method={"name": "reference", "best_again": False}).make_method(SPACE)
    again = settings(population=10, method="reference").make_method(SPACE)
    assert isinstance(again, Reference)
    assert again.ask()[0].tolist() == again.best.tolist()
    assert papers.ask()[0].tolist() != again.best.tolist()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "reference", "space": {"low": -1}}, "`reference` normalises coefficients of 0 or more"),
        ({"method": {"name": "reference", "elites": 0.1}, "population": 8}, "two elites or more"),
        ({"method": "cmaes", "experts": ["a"]}, "`cmaes` needs two numbers or more"),
    ],
)
def test_what_a_method_or_its_space_cannot_do_is_refused_before_anything_is_tried(
    values: dict[str, Any], words: str
) -> None:
    experts = {name: fake_z(seed) for seed, name in enumerate(values.get("experts", "abc"))}
    problem = SearchProblem("exam", experts, shots_of(lab_task("sort", train_size=8, test_size=1), 2, 0))
    with pytest.raises(SpecError, match=words):
        problem.search(settings(**values))


def test_chunks_of_no_candidates_are_refused() -> None:
    with pytest.raises(SpecError, match="trials_per_generation is 5 for a population of 4"):
        SearchSettings(population=4, trials_per_generation=5)
