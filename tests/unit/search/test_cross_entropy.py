"""The cross-entropy method: elites by the whole score, a floor under the spread, known points among the elites."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.errors import SpecError
from zfleet.search.elites import refit
from zfleet.search.method import Score
from zfleet.search.methods.cross_entropy import CrossEntropy
from zfleet.search.space import Points, Space

SPACE = Space(("a", "b"))


def _tell(search: CrossEntropy, scores: list[Score]) -> Points:
    asked = search.ask()
    search.tell(asked, scores)
    return asked


def test_elites_are_chosen_by_the_whole_score() -> None:
    search = CrossEntropy(SPACE, population=4, elites=0.25, std_floor=0)
    asked = _tell(search, [(0.5, 100.0), (0.6, -101.0), (0.6, -100.0), (0.1, 1e9)])
    assert search.mean.tolist() == asked[2].tolist()


def test_of_equal_scores_the_earlier_point_wins() -> None:
    search = CrossEntropy(SPACE, population=4, elites=0.25)
    asked = _tell(search, [(0.0,), (1.0,), (1.0,), (1.0,)])
    assert search.mean.tolist() == asked[1].tolist()


def test_known_points_compete_for_a_place_among_the_elites() -> None:
    search = CrossEntropy(SPACE, population=4, elites=0.25)
    known = np.array([[0.25, 0.75]])
    search.tell(known, [(2.0,)])
    _tell(search, [(1.0,)] * 4)
    assert search.mean.tolist() == [0.25, 0.75]
    # They count once: the next generation is fitted to its own.
    asked = _tell(search, [(0.0,), (0.0,), (1.0,), (0.0,)])
    assert search.mean.tolist() == asked[2].tolist()


def test_the_spread_never_falls_below_the_floor() -> None:
    search = CrossEntropy(Space(("a", "b"), low=-1.0), elites=0.05, std_floor=0.1)
    for _ in range(4):
        _tell(search, [(0.0,)] * 32)
    assert search.elite_count == 1
    assert search.std.tolist() == [0.1, 0.1]


@pytest.mark.parametrize("settings_", [{"population": 1}, {"elites": 0.0}, {"elites": 1.5}, {"std": 0.0}])
def test_settings_out_of_range_are_refused(settings_: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        CrossEntropy(SPACE, **settings_)  # type: ignore[arg-type]


@given(points=st.lists(st.lists(st.floats(-2, 2), min_size=3, max_size=3), min_size=1, max_size=8))
def test_the_refit_is_the_mean_and_the_spread_of_the_elites(points: list[list[float]]) -> None:
    mean, std = refit(np.array(points), 0.0)
    n = len(points)
    for place in range(3):
        values = [point[place] for point in points]
        assert mean[place] == pytest.approx(sum(values) / n)
        assert std[place] ** 2 == pytest.approx(sum((value - sum(values) / n) ** 2 for value in values) / n, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(8)))
@settings(max_examples=30, deadline=None)
def test_only_the_order_of_scores_matters(seed: int, order: list[int]) -> None:
    one, other = (CrossEntropy(SPACE, population=8, seed=seed) for _ in range(2))
    _tell(one, [(float(place),) for place in order])
    _tell(other, [(float(place) ** 3 + 7.0,) for place in order])
    assert (one.ask() == other.ask()).all()
