"""Searches as ways: which run together, what they see, and what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from zfleet.errors import JobError
from zfleet.evaluate.cells import CellKey
from zfleet.evaluate.splits import row_digest
from zfleet.evaluate.traces import Candidate, SearchTrace
from zfleet.search.plan import Generation, Tried
from zfleet_jobs.evaluate.searches import search_all
from zfleet_jobs.search.mixtures import FoundMixture, ShotScore
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.testing.evaluations import EXPERTS, TASKS, prepare_fake

SCORE = ShotScore(0.75, -1.0)


class Recorder:
    """Stands in for ``search_mixtures``: notes what it was asked, and finds the first expert every time."""

    def __init__(self) -> None:
        self.calls: list[tuple[Sequence[SearchProblem], SearchSettings, Path, str]] = []

    def __call__(
        self, problems: Sequence[SearchProblem], settings: SearchSettings, storage: Path, name: str
    ) -> list[FoundMixture]:
        self.calls.append((problems, settings, storage, name))
        return [self._found(problem) for problem in problems]

    def _found(self, problem: SearchProblem) -> FoundMixture:
        first, second = problem.experts
        return FoundMixture(
            name=problem.name,
            z=problem.experts[first],
            alphas={first: (1.0, 0.5), second: (0.0, 0.0)},
            score=SCORE,
            base=ShotScore(0.25, -2.0),
            singles={first: SCORE, second: SCORE},
            searched_best=1.0,
            selection={},
            test={},
            targets=1,
            tried=(Tried(0, np.array([1.0, 0.5, 0.0, 0.0]), (0.75, -1.0), 3),),
            evaluations=42,
            history=(Generation(0.5, 0.25, 21), Generation(0.75, 0.5, 42)),
            trials=(),
            seconds=3.0,
        )


def test_searches_of_one_method_and_seed_run_together(tmp_path: Path) -> None:
    searches = {"cem": {"selection": 2}, "tpe": {"method": "tpe", "selection": 0}}
    stage = prepare_fake(tmp_path, TASKS, EXPERTS, searches=searches, seeds=(0, 7))
    recorder = Recorder()
    found = search_all(stage.prepared, recorder, tmp_path)
    assert [name for *_, name in recorder.calls] == ["cem-3-0", "cem-3-7", "tpe-3-0", "tpe-3-7"]
    assert [settings.seed for _, settings, *_ in recorder.calls] == [0, 7, 0, 7]
    assert [settings.method.name for _, settings, *_ in recorder.calls] == ["cem", "cem", "tpe", "tpe"]
    assert all(len(problems) == len(TASKS) * 2 for problems, *_ in recorder.calls)
    assert found.keys() == {
        CellKey(task, way, 3, draw, seed) for task in TASKS for way in searches for draw in (0, 1) for seed in (0, 7)
    }


def test_a_search_sees_its_shots_and_the_selection_and_never_the_test(tmp_path: Path) -> None:
    stage = prepare_fake(tmp_path, TASKS, EXPERTS, searches={"cem": {"selection": 2}})
    recorder = Recorder()
    search_all(stage.prepared, recorder, tmp_path)
    for problem in recorder.calls[0][0]:
        task, draw = problem.name.rsplit("-", 1)
        parts = stage.prepared.splits[task]
        assert problem.task.train == parts.shots(3, int(draw))
        assert (tuple(problem.selection), tuple(problem.task.test)) == (parts.selection[:2], ())
        assert not {row_digest(sample) for sample in problem.samples} & {row_digest(sample) for sample in parts.test}


def test_what_was_tried_is_kept_with_each_experts_mean_alpha(tmp_path: Path) -> None:
    stage = prepare_fake(tmp_path, {"up": TASKS["up"]}, EXPERTS, searches={"cem": {"selection": 2}})
    found = search_all(stage.prepared, Recorder(), tmp_path)
    one = found[CellKey("up", "cem", 3, 1, 0)]
    assert one.mixture == {"up/1": (1.0, 0.5), "down/2": (0.0, 0.0)}
    assert (one.trace.value, one.trace.answers, one.trace.seconds) == (0.75, 42, 3.0)
    assert one.trace.candidates == (Candidate({"up/1": 0.75, "down/2": 0.0}, 0.75, 3),)
    assert [(one.best, one.mean, one.answers) for one in one.trace.history] == [(0.5, 0.25, 21), (0.75, 0.5, 42)]
    assert SearchTrace.from_json(one.trace.to_json()) == one.trace


def test_finals_on_more_prompts_than_the_selection_has_are_refused(tmp_path: Path) -> None:
    stage = prepare_fake(tmp_path, {"up": TASKS["up"]}, EXPERTS, searches={"cem": {}})
    with pytest.raises(JobError, match="search cem chooses by 20 prompts of the selection, task up has 6") as caught:
        search_all(stage.prepared, Recorder(), tmp_path)
    assert "searches.cem.selection" in caught.value.remedy


def test_an_evaluation_without_searches_runs_none(tmp_path: Path) -> None:
    recorder = Recorder()
    assert search_all(prepare_fake(tmp_path, TASKS, EXPERTS).prepared, recorder, tmp_path) == {}
    assert recorder.calls == []
