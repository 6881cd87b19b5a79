"""The sampler for Optuna knows what is in the study and nothing else, and loses none of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from zfleet.search import CemSampler
from zfleet.search.cem_sampler import BEST, COUNTED_IN, GENERATION

POPULATION = 6

SPACE: dict[str, BaseDistribution] = {
    "x": FloatDistribution(-1, 1),
    "rate": FloatDistribution(1e-4, 1, log=True),
    "count": IntDistribution(0, 9),
    "kind": CategoricalDistribution(["a", "b"]),
}

SMALL: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1)}


def _sampler(**changed: Any) -> CemSampler:
    return CemSampler(population=POPULATION, elites=0.5, seed=1, **changed)


def _study(storage: str | None = None, **changed: Any) -> optuna.Study:
    return optuna.create_study(storage=storage, study_name="cem", sampler=_sampler(), load_if_exists=True, **changed)


def _cost(params: dict[str, Any]) -> float:
    return float(abs(params["x"] - 0.3) + params["rate"] + params["count"] / 9 + (params["kind"] == "a"))


def _step(study: optuna.Study, trials: int = 1) -> None:
    for _ in range(trials):
        trial = study.ask(SPACE)
        study.tell(trial, _cost(trial.params))


def _seen(study: optuna.Study) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(trial.params, trial.system_attrs) for trial in study.trials]


def _counted_in(trial: FrozenTrial) -> int:
    return int(trial.system_attrs.get(COUNTED_IN, trial.system_attrs[GENERATION]))


@pytest.fixture(scope="module")
def uninterrupted() -> optuna.Study:
    study = _study()
    _step(study, 4 * POPULATION)
    return study


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.mark.parametrize("cut", [1, POPULATION, POPULATION + 1, 2 * POPULATION + 3])
def test_another_process_continues_as_if_there_had_been_one(
    cut: int, storage: str, uninterrupted: optuna.Study
) -> None:
    _step(_study(storage), cut)
    _step(_study(storage), 4 * POPULATION - cut)
    assert _seen(_study(storage)) == _seen(uninterrupted)


def test_two_studies_over_one_file_are_one_search(storage: str, uninterrupted: optuna.Study) -> None:
    one, other = _study(storage), _study(storage)
    for _ in range(2 * POPULATION):
        _step(one)
        _step(other)
    assert _seen(one) == _seen(other) == _seen(uninterrupted)


def test_a_population_at_once_is_the_same_search(uninterrupted: optuna.Study) -> None:
    study = _study()
    for _ in range(4):
        asked = [study.ask(SPACE) for _ in range(POPULATION)]
        for trial in reversed(asked):
            study.tell(trial, _cost(trial.params))
    assert _seen(study) == _seen(uninterrupted)


def test_workers_at_once_lose_nothing(storage: str) -> None:
    study = _study(storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5 * POPULATION, n_jobs=3)
    sizes = Counter(map(_counted_in, study.trials))
    assert sizes.total() == 5 * POPULATION
    assert sorted(sizes) == list(range(len(sizes)))
    # Two trials that end in the same moment may both be the last of a generation.
    assert all(sizes[generation] >= POPULATION for generation in range(len(sizes) - 1))


@given(
    steps=st.lists(st.sampled_from(["ask", "complete", "complete", "prune", "fail", "nan"]), max_size=60),
    order=st.randoms(use_true_random=False),
    maximize=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_complete_trial_counts_once_whatever_ends_when(steps: list[str], order: Any, maximize: bool) -> None:
    study = optuna.create_study(
        direction="maximize" if maximize else "minimize", sampler=CemSampler(population=3, elites=0.5, seed=0)
    )
    running: list[optuna.Trial] = []
    for step in steps:
        complete = study.get_trials(states=(TrialState.COMPLETE,))
        if step == "ask":
            running.append(study.ask(SMALL))
            asked = study.trials[-1]
            assert asked.system_attrs[GENERATION] == len(complete) // 3
            if BEST in asked.system_attrs:
                assert asked.params == study.best_params
        elif running:
            trial = running.pop(order.randrange(len(running)))
            if step == "complete":
                study.tell(trial, float(order.randrange(5)))
            elif step == "nan":
                with pytest.warns(UserWarning, match="nan"):
                    study.tell(trial, float("nan"))
            else:
                study.tell(trial, state=TrialState.PRUNED if step == "prune" else TrialState.FAIL)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    counted = Counter(map(_counted_in, complete))
    assert counted == Counter(place // 3 for place in range(len(complete)))
    begun = {trial.system_attrs[GENERATION] for trial in study.trials} - {0}
    assert begun == {trial.system_attrs[GENERATION] for trial in study.trials if BEST in trial.system_attrs}


def test_a_late_trial_shapes_the_generation_after_the_one_it_ends_in() -> None:
    """The same trials in the same places, but one of the first generation ends in the second."""
    study = optuna.create_study(sampler=CemSampler(population=4, elites=0.25, seed=0))
    late, *first = [study.ask(SMALL) for _ in range(5)]
    for trial in first:
        study.tell(trial, 1.0)
    second = [study.ask(SMALL) for _ in range(3)]
    study.tell(late, 0.0)
    for trial in second:
        study.tell(trial, 2.0)
    assert study.trials[0].system_attrs == {GENERATION: 0, COUNTED_IN: 1}
    third = [study.ask(SMALL).params["x"] for _ in range(20)]
    # It is the only elite: what is drawn lies within the floor's few standard deviations around it.
    assert max(abs(x - late.params["x"]) for x in third) < 5 * 0.02


def test_a_further_candidate_is_drawn_when_all_are_asked_for() -> None:
    study = optuna.create_study(sampler=CemSampler(population=2, seed=0))
    asked = [study.ask(SMALL) for _ in range(5)]
    assert [trial.system_attrs[GENERATION] for trial in study.trials] == [0] * 5
    assert len({trial.params["x"] for trial in asked}) == 5


def test_enqueued_trials_count_and_the_best_still_comes() -> None:
    study = optuna.create_study(direction="maximize", sampler=CemSampler(population=3, elites=0.4, seed=0))
    study.enqueue_trial({"x": 0.0})
    study.enqueue_trial({"x": 0.9})
    for _ in range(3):
        trial = study.ask(SMALL)
        study.tell(trial, trial.params["x"] == 0.9)
    study.enqueue_trial({"x": 0.5})
    asked = [study.ask(SMALL).params["x"] for _ in range(3)]
    assert asked[:2] == [0.5, 0.9]
    assert asked[2] == pytest.approx(0.9, abs=0.1)
    assert [trial.system_attrs.get(BEST) for trial in study.trials[3:]] == [None, 1, None]


@pytest.mark.parametrize("by", ["adding", "another sampler"])
def test_trials_from_elsewhere_are_the_first_generation(by: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    if by == "adding":
        study.add_trials([create_trial(params={"x": x / 10}, distributions=SMALL, value=x) for x in range(10)])
    else:
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=10)
    study.sampler = CemSampler(population=10, elites=0.1, seed=0)
    drawn = [study.ask(SMALL).params["x"] for _ in range(10)]
    assert drawn[0] == study.best_params["x"]
    assert max(abs(x - drawn[0]) for x in drawn) < 5 * 0.02
    assert {trial.system_attrs[GENERATION] for trial in study.trials[10:]} == {1}
