"""The benchmark of samplers: equal evaluations, shots that are not judged on, and pairs of the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning import lab_experts
from samplers import recording
from samplers.recording import EXAM, POINTS_A_SIDE, Table, grid, score_mixtures
from samplers.search import search
from samplers.sides import EVALUATIONS, FEW_EVALUATIONS, SIDES
from samplers.summary import known_mixtures, summarise, table
from samplers.surfaces import SHOTS, SURFACES, few_shot, nearest
from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import BaseSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.models.base import load_tokenizer
from zfleet.models.bundle import pack_base
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import lab_task
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.scoring import measure_candidates
from zfleet_jobs.search.settings import SearchSettings

PROMPTS = 30


@pytest.fixture(scope="module")
def recorded() -> Table:
    rng = np.random.default_rng(0)
    shape = (len(grid()), PROMPTS)
    return Table((rng.random(shape) < 0.5).astype(np.float64), -10 * rng.random(shape))


@pytest.mark.parametrize("name", SIDES)
def test_every_sampler_gets_its_evaluations(name: str) -> None:
    assert sum(SIDES[name].batches()) == EVALUATIONS
    assert max(SIDES[name].batches()) == SIDES[name].batch


def test_every_recorded_mixture_is_nearest_to_itself() -> None:
    assert [nearest(point) for point in grid()] == list(range(POINTS_A_SIDE**3))


@given(seed=st.integers(0, 1000), place=st.integers(0, POINTS_A_SIDE**3 - 1))
@settings(max_examples=30, deadline=None)
def test_a_mixture_is_judged_by_the_prompts_it_was_not_scored_on(recorded: Table, seed: int, place: int) -> None:
    problem = few_shot(recorded, seed, ties=False)
    point = grid()[place]
    judged = problem.judge(point)
    assert judged["true"] + judged["optimism"] == pytest.approx(problem.score(point))
    whole = SHOTS * problem.score(point) + (PROMPTS - SHOTS) * judged["true"]
    assert whole == pytest.approx(recorded.right[place].sum())


def test_likelihood_decides_between_equal_accuracies_only(recorded: Table) -> None:
    plain, tied = few_shot(recorded, 3, ties=False), few_shot(recorded, 3, ties=True)
    points = grid()[::7]
    accuracy = [plain.score(point) for point in points]
    with_ties = [tied.score(point) for point in points]
    order = np.argsort(with_ties)
    assert (np.diff(np.array(accuracy)[order]) >= -1e-12).all()
    assert len(set(with_ties)) == len(points) > len(set(accuracy))


def test_more_evaluations_never_choose_worse_and_a_seed_is_a_run() -> None:
    first = search("sphere", "random", 1)
    assert first[EVALUATIONS]["loss"] <= first[FEW_EVALUATIONS]["loss"]
    assert search("sphere", "random", 1) == first
    assert search("sphere", "random", 2) != first


def test_losses_are_compared_by_ratios_seed_by_seed() -> None:
    def outcomes(few: float, all_: float) -> list[dict[int, dict[str, float]]]:
        return [{96: {"loss": few * seed}, 256: {"loss": all_ * seed}} for seed in range(1, 8)]

    found = summarise({"cem": outcomes(2.0, 1.0), "random": outcomes(9.0, 4.0)})
    assert found["cem"]["256"]["loss"]["median"] == 4.0
    assert found["random"]["96"]["loss"]["median"] == 36.0
    assert found["random"]["beside_cem"]["median"] == 4.0
    assert found["random"]["beside_cem"]["ci95"] == [4.0, 4.0]


def test_accuracies_are_compared_by_differences() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=8) / 10
    mine = [{96: {"true": 0.5 + one, "optimism": 0.1}, 256: {"true": 0.6 + one, "optimism": 0.1}} for one in noise]
    other = [{96: {"true": 0.4 + one, "optimism": 0.2}, 256: {"true": 0.5 + one, "optimism": 0.2}} for one in noise]
    found = summarise({"cem": mine, "tpe": other})
    beside = found["tpe"]["beside_cem"]
    # The noise is the same on both sides, and the difference has none of it.
    assert [beside["mean"], *beside["ci95"]] == pytest.approx([-0.1] * 3)
    low, high = found["tpe"]["256"]["true"]["ci95"]
    assert high - low > 0.05
    assert {column.header for column in table("shots", found).columns} >= {"96", "256", "optimism"}


def test_known_mixtures_are_found_on_the_grid(recorded: Table) -> None:
    known = known_mixtures(recorded)
    assert known["base"] == recorded.right[0].mean()
    assert known["all three"] == recorded.right[-1].mean()
    assert known["add"] == recorded.right[POINTS_A_SIDE - 1].mean()
    assert known["best recorded"] == recorded.right.mean(axis=1).max()
    assert SURFACES["shots"].dim == 3


def test_mixtures_score_as_in_a_search(engine: SyncEngine, tiny_folder: Path, make_z: Callable[..., ZVector]) -> None:
    experts = [make_z(seed) for seed in range(2)]
    points = [(0.0, 0.0), (1.0, 0.0), (0.4, 0.7)]
    task, tokenizer = lab_task(EXAM, test_size=12), load_tokenizer(tiny_folder)
    right, likelihood = score_mixtures(engine, tokenizer, task, [mix(experts, point) for point in points])
    problem = SearchProblem(
        "exam", {str(place): z for place, z in enumerate(experts)}, replace(task, train=task.test, test=())
    )
    searched = measure_candidates(engine, tokenizer, problem, SearchSettings(), points, [range(12)] * 3)
    assert right.shape == likelihood.shape == (3, 12)
    # Of each mixture and prompt: whether it is right, and the likelihood.
    assert np.array(searched)[:, :, 0].tolist() == right.tolist()
    assert np.array(searched)[:, :, 1].tolist() == [pytest.approx(row, abs=1e-4) for row in likelihood.tolist()]


def test_mixtures_are_recorded_once(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    monkeypatch.setattr(recording, "pack_base", lambda _: pack_base(BaseSpec(model=str(tiny_folder))))
    monkeypatch.setattr(lab_experts, "LEARNER", LearnerSpec(steps=2, prompts_per_step=4))
    monkeypatch.setattr(recording, "POINTS_A_SIDE", 2)
    monkeypatch.setattr(recording, "PROMPTS", 6)
    read = recording.recorded_table.__wrapped__
    table = read()
    assert table.right.shape == table.likelihood.shape == (8, 6)
    assert set(table.right.flat) <= {0.0, 1.0}
    # The experts have learned something: no two mixtures are the same.
    assert len({row.tobytes() for row in table.likelihood}) == 8

    def refuse(_: object) -> Table:
        raise AssertionError("recorded again")

    monkeypatch.setattr(recording, "_record", refuse)
    assert (read().likelihood == table.likelihood).all()
