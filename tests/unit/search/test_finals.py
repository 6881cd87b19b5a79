"""The finals: who wins, and an estimate of it that is not the largest of several."""

from __future__ import annotations

import numpy as np
import pytest

from zfleet.search.finals import choose, expect
from zfleet.search.objective import Objective

ACCURACY = Objective(tie=None)


def rows(values: object) -> np.ndarray:
    """Accuracy alone: [finalists, samples, 1]."""
    return np.asarray(values, np.float64)[..., None]


def test_the_best_on_fresh_samples_wins_and_shots_break_ties() -> None:
    fresh = rows([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]])
    assert choose(ACCURACY, fresh, [(1.0,), (0.2,), (0.5,)]) == 2
    assert choose(ACCURACY, fresh[:, :0], [(0.1,), (0.9,), (0.5,)]) == 1


def test_a_sample_counts_under_whom_the_others_choose() -> None:
    # Without sample 0 the second leads, without sample 1 or 2 the first.
    fresh = rows([[1, 1, 0], [0, 1, 0]])
    (expected,) = expect(ACCURACY, fresh, [(0.0,), (1.0,)])
    assert expected == pytest.approx((0 + 1 + 0) / 3)


def test_one_finalist_is_expected_to_do_as_it_did() -> None:
    fresh = rows([[1, 0, 1, 1]])
    assert expect(ACCURACY, fresh, [(0.0,)]) == (0.75,)


def test_equal_finalists_gain_nothing_by_being_many() -> None:
    """Twelve finalists that are right half of the time: the largest of their scores is far above that."""
    rng = np.random.default_rng(0)
    best, expected = [], []
    for _ in range(400):
        fresh = rows(rng.random((12, 20)) < 0.5)
        before = [(float(value),) for value in rng.random(12)]
        best.append(ACCURACY.score(fresh[choose(ACCURACY, fresh, before)])[0])
        expected.append(expect(ACCURACY, fresh, before)[0])
    assert np.mean(best) > 0.65
    assert np.mean(expected) == pytest.approx(0.5, abs=0.03)
