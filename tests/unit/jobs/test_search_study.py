"""A search as an Optuna study, in a real database: complete, written once, and never over another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from zfleet.errors import JobError
from zfleet.search.methods.random_search import RandomSearch
from zfleet.search.objective import Objective
from zfleet.search.plan import Plan
from zfleet.search.search import Search
from zfleet.search.space import Space
from zfleet_jobs.search.study import STUDY, check_study, write_study

MakeSearch = Callable[..., Search]
Answered = Callable[[Sequence[Sequence[float]], Sequence[Sequence[int]]], list[list[list[float]]]]


@pytest.fixture
def run(answered: Answered) -> Callable[..., Search]:
    """``run(search, rounds)``: the search after so many rounds, by default at its end."""

    def go(search: Search, rounds: int = 1000) -> Search:
        for _ in range(rounds):
            if search.pending is None:
                break
            points = search.pending.points.reshape(len(search.pending.points), 2, -1).mean(axis=2)
            search.tell([np.array(one) for one in answered(points.tolist(), search.pending.samples)])
        return search

    return go


def _load(url: str, name: str = "exam") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=RDBStorage(url))


def _said(study: optuna.Study) -> list[object]:
    """Everything about the trials but when they were written."""
    return [
        (one.number, one.state, one.values, one.params, one.intermediate_values, one.user_attrs)
        for one in study.get_trials()
    ]


def test_a_finished_search_is_a_complete_study(
    small_search: MakeSearch, run: Callable[..., Search], tmp_path: Path
) -> None:
    search = run(small_search(block=1))
    url = write_study(search, "exam", tmp_path)
    assert url == f"sqlite:///{tmp_path / STUDY}"
    study = _load(url)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE"]
    assert study.user_attrs["experts"] == ["one", "two"]
    tried, trials = search.tried(), study.get_trials()
    assert len(trials) == len(tried) > 10
    for number, (one, trial) in enumerate(zip(tried, trials, strict=True)):
        assert list(trial.params.values()) == one.point.tolist()
        assert trial.intermediate_values == {one.shots: one.score[0]}
        assert trial.user_attrs == {
            "candidate": number,
            "generation": one.generation,
            "shots": one.shots,
            "score": list(one.score),
        }
        if one.shots == 4:
            assert (trial.state, trial.values) == (TrialState.COMPLETE, [one.score[0]])
        else:
            assert trial.state == TrialState.PRUNED
    # Some dropped out of a race; the base and the experts did not.
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert [trial.params for trial in trials[:3]] == [{"one": a, "two": b} for a, b in ((0, 0), (1, 0), (0, 1))]
    assert study.best_value == max(one.score[0] for one in tried if one.shots == 4)


def test_a_second_call_adds_nothing(small_search: MakeSearch, run: Callable[..., Search], tmp_path: Path) -> None:
    search = run(small_search(block=1))
    url = write_study(search, "exam", tmp_path)
    before = _said(_load(url))
    assert write_study(search, "exam", tmp_path) == url
    assert _said(_load(url)) == before


@pytest.mark.parametrize("rounds", [1, 2, 3, 6])
def test_stopped_anywhere_and_written_it_ends_as_the_same_study(
    rounds: int, small_search: MakeSearch, run: Callable[..., Search], tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    whole = write_study(run(small_search(block=1)), "exam", tmp_path / "whole")
    search = run(small_search(block=1), rounds)
    write_study(search, "exam", tmp_path)
    assert search.pending is not None
    assert _said(_load(write_study(run(search), "exam", tmp_path))) == _said(_load(whole))


def test_studies_of_several_searches_share_a_database(
    small_search: MakeSearch, run: Callable[..., Search], tmp_path: Path
) -> None:
    searches = {name: run(small_search(seed)) for seed, name in enumerate(("a", "b"))}
    storage = f"sqlite:///{tmp_path / 'all.db'}"
    for name, search in searches.items():
        assert write_study(search, name, tmp_path / "folder", storage) == storage
    assert not (tmp_path / "folder").exists()
    for name, search in searches.items():
        assert len(_load(storage, name).get_trials()) == len(search.tried())


def test_the_study_of_other_experts_is_left_alone(
    small_search: MakeSearch, run: Callable[..., Search], tmp_path: Path
) -> None:
    url = write_study(run(small_search()), "exam", tmp_path)
    before = _said(_load(url))
    space = Space(("one", "three"))
    other = run(Search(space, lambda inner: RandomSearch(inner, population=3), Objective(), Plan(shots=2)), 2)
    with pytest.raises(JobError, match=r"study 'exam' .* is of the experts \['one', 'two'\], not \['one', 'three'\]"):
        write_study(other, "exam", tmp_path)
    assert _said(_load(url)) == before
    assert write_study(other, "other", tmp_path) == url


def test_alphas_that_are_split_are_shown_by_their_mean(run: Callable[..., Search], tmp_path: Path) -> None:
    space = Space(("one", "two"), "layer", ("0", "1"), low=-1.0)
    search = run(Search(space, lambda inner: RandomSearch(inner, population=5), Objective(), Plan(shots=2)))
    trials = _load(write_study(search, "exam", tmp_path)).get_trials()
    for trial, one in zip(trials, search.tried(), strict=True):
        means = [one.point[:2].mean(), one.point[2:].mean()]
        assert list(trial.params.values()) == pytest.approx(means)


def test_two_objectives_are_two_values(small_search: MakeSearch, run: Callable[..., Search], tmp_path: Path) -> None:
    objective = Objective(({"accuracy": 1.0}, {"log_likelihood": 1.0}), tie=None)
    assert objective.metrics == ("accuracy", "log_likelihood")
    search = run(small_search(objective=objective))
    study = _load(write_study(search, "exam", tmp_path))
    assert [trial.values for trial in study.get_trials()] == [list(one.score) for one in search.tried()]
    assert study.best_trials


def test_a_candidate_that_answered_fewer_shots_is_none_of_the_best_of_two_objectives(
    small_search: MakeSearch, run: Callable[..., Search], tmp_path: Path
) -> None:
    objective = Objective(({"accuracy": 1.0}, {"log_likelihood": 1.0}), tie=None)
    search = run(small_search(objective=objective, block=1))
    assert any(one.shots < 4 for one in search.tried())
    study = _load(write_study(search, "exam", tmp_path))
    assert {trial.user_attrs["shots"] for trial in study.get_trials(states=[TrialState.COMPLETE])} == {4}


@pytest.mark.parametrize(
    "storage",
    [
        "sqlite:////no/such/folder/study.db",
        "postgresql://me:secret@localhost:1/studies",
        "nothing://me:secret@host/studies",
        "secret",
    ],
)
def test_a_database_that_does_not_take_it_is_an_error_without_its_password(
    storage: str, small_search: MakeSearch, run: Callable[..., Search], tmp_path: Path
) -> None:
    with pytest.raises(JobError, match="the study cannot be written to") as refused:
        write_study(run(small_search(), 1), "exam", tmp_path, storage)
    assert refused.value.remedy
    if "@" in storage:
        assert "secret" not in str(refused.value)
        assert "studies" in refused.value.message


@pytest.mark.parametrize("storage", ["mysql://me:secret@host/studies", "postgresql+pg8000://me:secret@host/studies"])
def test_a_driver_that_is_not_installed_is_missed_before_the_search(storage: str) -> None:
    with pytest.raises(JobError, match="the database's driver is not installed") as refused:
        check_study(storage)
    assert "pip install 'zfleet[postgres]'" in refused.value.remedy
    assert "secret" not in str(refused.value)


def test_a_database_is_not_asked_before_the_search(tmp_path: Path) -> None:
    check_study(f"sqlite:///{tmp_path}/study.db")
    assert not list(tmp_path.iterdir())
    with pytest.raises(JobError, match="the study cannot be written to nothing://host/studies"):
        check_study("nothing://me:secret@host/studies")


def test_a_file_that_is_no_database_is_an_error(
    small_search: MakeSearch, run: Callable[..., Search], tmp_path: Path
) -> None:
    (tmp_path / STUDY).write_bytes(b"no database" * 1000)
    with pytest.raises(JobError, match=r"the study cannot be written to sqlite:.*file is not a database"):
        write_study(run(small_search(), 1), "exam", tmp_path)
