"""The cross-entropy method: what it finds, what it keeps, and that it can stop anywhere and go on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zfleet.errors import CheckpointError, RewardError, SpecError
from zfleet.search.coefficients import alphas_of, dimension, known_points
from zfleet.search.cross_entropy import CrossEntropy

Point = NDArray[np.float64]


def _run(search: CrossEntropy, score: Callable[[Point], float | tuple[float, ...]], generations: int) -> CrossEntropy:
    for _ in range(generations):
        search.tell([score(point) for point in search.ask()])
    return search


def _sphere(target: Point) -> Callable[[Point], float]:
    return lambda point: -float(((point - target) ** 2).sum())


def test_finds_the_optimum_of_a_sphere() -> None:
    target = np.array([0.15, 0.8, 0.45, 1.0])
    best = _run(CrossEntropy(4, seed=3), _sphere(target), 30).best
    assert best is not None
    assert np.abs(np.array(best.point) - target).max() < 0.03


def test_ties_are_broken_by_the_second_entry() -> None:
    # Accuracy says only "both alphas above a half", as ten shots would; the log-likelihood knows where.
    target = np.array([0.7, 0.9])
    sphere = _sphere(target)
    best = _run(CrossEntropy(2, seed=1), lambda p: (float((p > 0.5).all()), sphere(p)), 20).best
    assert best is not None
    assert best.score[0] == 1.0
    assert np.abs(np.array(best.point) - target).max() < 0.03


def test_accuracy_outranks_any_likelihood() -> None:
    search = CrossEntropy(1, population=4)
    search.ask()
    search.tell([(0.5, 100.0), (0.6, -100.0), (0.6, -101.0), (0.1, 1e9)])
    assert search.best is not None
    assert search.best.score == (0.6, -100.0)
    assert search.best.point == (1.0,)


@pytest.mark.parametrize("layers", [None, 3])
def test_first_population_holds_the_base_and_every_single_expert(layers: int | None) -> None:
    population = CrossEntropy(3, layers=layers).ask()
    wide = layers or 1
    assert population.shape == (32, 3 * wide)
    assert population.dtype == np.float64
    assert not population[0].any()
    for expert in range(3):
        assert alphas_of(population[1 + expert].tolist(), 3, layers) == [
            (1.0 if k == expert else 0.0) if layers is None else (1.0 if k == expert else 0.0,) * wide for k in range(3)
        ]


def test_the_best_candidate_enters_the_next_population() -> None:
    search = CrossEntropy(3, population=8)
    first = search.ask()
    search.tell([1.0 if i == 6 else 0.0 for i in range(8)])
    assert (search.ask()[0] == first[6]).all()


def test_the_spread_never_falls_below_the_floor() -> None:
    search = CrossEntropy(2, elites=0.05, std_floor=0.1)
    for _ in range(4):
        search.ask()
        search.tell([0.0] * 32)
    assert search.elite_count == 1
    assert search.std.tolist() == [0.1, 0.1]


def test_history_has_best_and_mean_of_each_generation() -> None:
    search = CrossEntropy(1, population=4)
    for scores in ([0.0, 0.25, 0.5, 0.25], [1.0, 0.0, 0.0, 0.0]):
        search.ask()
        search.tell(scores)
    assert [(g.best, g.mean) for g in search.history] == [(0.5, 0.25), (1.0, 0.25)]


@given(
    experts=st.integers(1, 4),
    layers=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    told=st.integers(0, 3),
    asked=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_stored_anywhere_it_continues_identically(
    experts: int, layers: int | None, seed: int, told: int, asked: bool
) -> None:
    target = np.linspace(0.1, 0.9, dimension(experts, layers))
    search = _run(CrossEntropy(experts, layers=layers, population=8, seed=seed), _sphere(target), told)
    if asked:
        search.ask()
    stored = search.to_json()
    copy = CrossEntropy.from_json(stored)
    assert copy.to_json() == stored
    for one in (search, copy):
        if asked:
            assert one.pending is not None
            one.tell([_sphere(target)(point) for point in one.pending])
        _run(one, _sphere(target), 2)
    assert copy.to_json() == search.to_json()


@given(
    seed=st.integers(0, 2**32 - 1), scores=st.lists(st.lists(st.integers(-5, 5), min_size=6, max_size=6), max_size=5)
)
@settings(max_examples=50, deadline=None)
def test_candidates_stay_in_range_and_the_best_never_worsens(seed: int, scores: list[list[int]]) -> None:
    search = CrossEntropy(3, population=6, seed=seed)
    before: tuple[float, ...] = (-math.inf,)
    for generation in scores:
        population = search.ask()
        assert population.shape == (6, 3)
        assert ((population >= 0) & (population <= 1)).all()
        search.tell(generation)
        assert search.best is not None
        assert search.best.score >= max(before, (max(generation),))
        before = search.best.score


@given(seed=st.integers(0, 2**32 - 1), target=st.lists(st.floats(0, 1), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_only_the_order_of_scores_matters(seed: int, target: list[float]) -> None:
    # Quantised, so that the transform keeps every order and every tie exactly.
    def plain(point: Point) -> float:
        return float(round(_sphere(np.array(target))(point) * 1000))

    one = _run(CrossEntropy(3, population=12, seed=seed), plain, 4)
    other = _run(CrossEntropy(3, population=12, seed=seed), lambda point: plain(point) ** 3 + 7.0, 4)
    assert (one.ask() == other.ask()).all()
    assert one.best is not None
    assert other.best is not None
    assert one.best.point == other.best.point


def test_other_seeds_ask_other_questions() -> None:
    assert (CrossEntropy(2, seed=0).ask() == CrossEntropy(2, seed=0).ask()).all()
    assert not (CrossEntropy(2, seed=0).ask() == CrossEntropy(2, seed=1).ask()).all()


@pytest.mark.parametrize(
    ("settings_", "told"),
    [
        ({"experts": 3, "population": 3}, "population is 3"),
        ({"experts": 0}, "0 experts"),
        ({"experts": 1, "layers": 0}, "0 layers"),
        ({"experts": 1, "elites": 0.0}, "elites is 0"),
        ({"experts": 1, "elites": 1.1}, "elites is 1.1"),
        ({"experts": 1, "std": 0.0}, "std 0"),
        ({"experts": 1, "mean": 2.0}, "mean 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings_: dict[str, int], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        CrossEntropy(**settings_)


def test_calls_out_of_order_are_refused() -> None:
    search = CrossEntropy(1, population=2)
    with pytest.raises(RuntimeError, match="ask for a population first"):
        search.tell([0.0, 0.0])
    search.ask()
    with pytest.raises(RuntimeError, match="tell its scores first"):
        search.ask()


@pytest.mark.parametrize(
    ("scores", "error", "told"),
    [
        ([0.0], ValueError, "1 scores for 2 candidates"),
        ([(0.0, 1.0), (0.0,)], ValueError, "different lengths"),
        ([(), ()], ValueError, "different lengths"),
        ([0.0, math.nan], RewardError, "candidate 1"),
        ([(0.0, -math.inf), (0.0, 1.0)], RewardError, "candidate 0"),
    ],
)
def test_bad_scores_are_refused_and_change_nothing(scores: list[float], error: type[Exception], told: str) -> None:
    search = CrossEntropy(1, population=2)
    search.ask()
    before = search.to_json()
    with pytest.raises(error, match=told):
        search.tell(scores)
    assert search.to_json() == before


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "other"}'])
def test_a_damaged_state_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="no state of a search"):
        CrossEntropy.from_json(text)


def test_points_of_another_size_are_refused() -> None:
    assert known_points(2, 2).tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    with pytest.raises(SpecError, match="3 numbers for 2 experts"):
        alphas_of([0.0, 0.0, 0.0], 2, None)
