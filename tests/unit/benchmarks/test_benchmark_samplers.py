"""The benchmark of samplers: equal evaluations, shots that are not judged on, and pairs of the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers.recording import POINTS_A_SIDE, Table, grid
from samplers.search import search
from samplers.sides import EVALUATIONS, FEW_EVALUATIONS, SIDES
from samplers.summary import known_mixtures, summarise, table
from samplers.surfaces import SHOTS, SURFACES, few_shot, nearest

PROMPTS = 30


@pytest.fixture(scope="module")
def recorded() -> Table:
    rng = np.random.default_rng(0)
    shape = (len(grid()), PROMPTS)
    return Table((rng.random(shape) < 0.5).astype(np.float64), -10 * rng.random(shape))


@pytest.mark.parametrize("name", SIDES)
def test_every_sampler_gets_its_evaluations(name: str) -> None:
    assert sum(SIDES[name].batches()) == SIDES[name].evaluations
    assert max(SIDES[name].batches()) <= SIDES[name].batch
    assert SIDES[name].evaluations in (FEW_EVALUATIONS, EVALUATIONS)


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


def test_samplers_are_compared_seed_by_seed_after_as_many_evaluations() -> None:
    def outcome(few: float, all_: float | None) -> dict[int, dict[str, float]]:
        return {96: {"loss": few}} if all_ is None else {96: {"loss": few}, 256: {"loss": all_}}

    mine = [outcome(2.0 * seed, 1.0 * seed) for seed in range(1, 8)]
    found = summarise(
        {
            "cem": mine,
            "random": [outcome(9.0 * seed, 4.0 * seed) for seed in range(1, 8)],
            "gp": [outcome(1.0 * seed, None) for seed in range(1, 8)],
        }
    )
    assert found["cem"]["256"]["loss"]["median"] == 4.0
    assert (found["random"]["beside_cem"]["evaluations"], found["random"]["beside_cem"]["median"]) == (256, 4.0)
    assert (found["gp"]["beside_cem"]["evaluations"], found["gp"]["beside_cem"]["median"]) == (96, 0.5)
    assert found["gp"]["beside_cem"]["ci95"] == [0.5, 0.5]


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
