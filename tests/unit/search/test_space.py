"""The space of a search: limits, groups, sparse mixtures, and what stands for the base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zfleet.errors import SpecError
from zfleet.search.space import Space

POINTS = hnp.arrays(np.float64, (3, 8), elements=st.floats(-3, 3))
"""Three points of four experts and two groups."""


def _space(**limits: object) -> Space:
    return Space(("a", "b", "c", "d"), "layer", ("0", "1"), **limits)  # type: ignore[arg-type]


@given(points=POINTS, low=st.sampled_from([-1.0, 0.0]), high=st.sampled_from([0.5, 1.0, 2.0]))
def test_points_within_the_limits_stay_and_all_others_come_into_them(
    points: np.ndarray, low: float, high: float
) -> None:
    space = _space(low=low, high=high)
    within = space.within(points)
    assert ((within >= low) & (within <= high)).all()
    assert (space.within(within) == within).all()


@given(points=POINTS, most=st.integers(1, 4))
def test_at_most_so_many_experts_remain_the_largest(points: np.ndarray, most: int) -> None:
    within = _space(low=-1.0, max_experts=most).within(points).reshape(3, 4, 2)
    sizes = np.abs(np.clip(points, -1, 1)).reshape(3, 4, 2).sum(axis=2)
    for point, size in zip(within, sizes, strict=True):
        used = point.any(axis=1)
        assert used.sum() <= most
        if used.any() and not used.all():
            assert size[used].min() >= size[~used].max() - 1e-12 or size[~used].max() == 0


@given(points=POINTS, most=st.sampled_from([None, 2, 3]), low=st.sampled_from([-1.0, 0.0]))
def test_alphas_that_must_sum_to_one_do_within_the_limits(points: np.ndarray, most: int | None, low: float) -> None:
    within = _space(low=low, sum_to_one=True, max_experts=most).within(points).reshape(3, 4, 2)
    assert np.allclose(within.sum(axis=1), 1.0, atol=1e-9)
    assert ((within >= low - 1e-12) & (within <= 1 + 1e-12)).all()
    assert ((np.abs(within).sum(axis=2) > 0).sum(axis=1) <= (most or 4)).all()


@given(point=hnp.arrays(np.float64, (1, 4), elements=st.floats(-2, 2)))
def test_the_sum_to_one_is_the_nearest_such_point(point: np.ndarray) -> None:
    space = Space(("a", "b", "c", "d"), low=-0.5, sum_to_one=True)
    found = space.within(np.clip(point, -0.5, 1.0))
    others = space.within(np.random.default_rng(0).uniform(-0.5, 1, (200, 4)))
    clipped = np.clip(point, -0.5, 1.0)
    assert ((found - clipped) ** 2).sum() <= ((others - clipped) ** 2).sum(axis=1).min() + 1e-9


def test_alphas_have_the_form_of_their_split() -> None:
    assert Space(("a", "b")).alphas([0.1, 0.2]) == [0.1, 0.2]
    assert Space(("a", "b"), "layer", ("0", "1")).alphas([1, 2, 3, 4]) == [(1.0, 2.0), (3.0, 4.0)]
    kinds = Space(("a",), "kind", ("q_proj", "up_proj"))
    assert kinds.alphas([0.5, 1]) == [{"q_proj": 0.5, "up_proj": 1.0}]
    assert kinds.names == ("a:q_proj", "a:up_proj")
    with pytest.raises(SpecError, match="a point of 3 numbers"):
        kinds.alphas([1, 2, 3])


def test_base_singles_and_equal_parts() -> None:
    space = _space()
    assert not space.base().any()
    assert space.singles()[1].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert space.uniform().tolist() == [[0.25] * 8]
    assert _space(high=0.5).singles().max() == 0.5


@pytest.mark.parametrize(
    "limits", [{}, {"high": 0.5}, {"low": -1, "high": 2}, {"sum_to_one": True}, {"sum_to_one": True, "max_experts": 1}]
)
def test_every_expert_alone_is_in_the_space(limits: dict[str, Any]) -> None:
    space = _space(**limits)
    assert space.within(space.singles()) == pytest.approx(space.singles())


def test_the_space_of_a_few_experts_and_back() -> None:
    space = _space(max_experts=3)
    narrow = space.of([1, 3])
    assert (narrow.experts, narrow.max_experts) == (("b", "d"), 2)
    wide = space.widen(np.array([[1.0, 2.0, 3.0, 4.0]]), [1, 3])
    assert wide.tolist() == [[0, 0, 1, 2, 0, 0, 3, 4]]
    assert space.narrow(wide, [1, 3]).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"low": 0.2}, "the base, all alphas 0, lies outside"),
        ({"high": 0.0}, "the base, all alphas 0, lies outside"),
        ({"max_experts": 5}, "max_experts is 5 for 4 experts"),
        ({"max_experts": 0}, "max_experts is 0 for 4 experts"),
        ({"high": 0.5, "sum_to_one": True}, "an expert alone, its alpha 1, lies outside"),
    ],
)
def test_limits_that_no_search_can_keep_are_refused(limits: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        _space(**limits)
    with pytest.raises(SpecError, match="0 experts"):
        Space(())
