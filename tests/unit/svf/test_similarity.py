"""How alike experts are: the cosines of what they change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.svf.mixture import mix
from zfleet.svf.similarity import cosines
from zfleet.svf.zvector import ZVector
from zfleet.testing.fake_engine import fake_z

few = settings(max_examples=20, deadline=None, derandomize=True)


@few
@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=6))
def test_cosines_are_symmetric_within_limits_and_1_with_itself(seeds: list[int]) -> None:
    found = cosines([fake_z(seed) for seed in seeds])
    assert found.shape == (len(seeds), len(seeds))
    assert found.dtype == np.float64
    assert np.allclose(found, found.T, rtol=0, atol=1e-12)
    assert np.abs(found).max() <= 1 + 1e-12
    assert np.diag(found) == pytest.approx(1.0)


@few
@given(st.integers(0, 2**20), st.integers(0, 2**20), st.floats(0.25, 4))
def test_the_size_of_a_change_does_not_matter_and_its_sign_does(first: int, second: int, size: float) -> None:
    a, b = fake_z(first), fake_z(second)
    (_, same, opposite), (_, *others), _ = cosines([a, mix([a], [size]), mix([a], [-size])])
    assert (same, opposite) == (pytest.approx(1.0, abs=1e-5), pytest.approx(-1.0, abs=1e-5))
    assert others == pytest.approx([1.0, -1.0], abs=1e-5)
    assert cosines([mix([a], [size]), b])[0, 1] == pytest.approx(cosines([a, b])[0, 1], abs=1e-5)


def test_what_changes_nothing_is_like_no_other() -> None:
    found = cosines([fake_z(0), mix([fake_z(0)], [0.0])])
    assert found == pytest.approx(np.array([[1.0, 0.0], [0.0, 0.0]]))


def test_it_is_the_cosine_over_all_matrices_together() -> None:
    def of(up: list[float], down: list[float]) -> ZVector:
        # The order in which a z holds its matrices is no part of it.
        values = {"layers.0.up": 1 + torch.tensor(up), "layers.0.down": 1 + torch.tensor(down)}
        return ZVector(values if up[0] else dict(reversed(values.items())), "b", "f", "mlp")

    found = cosines([of([1.0, 0.0], [2.0]), of([0.0, 2.0], [1.0])])
    assert found[0, 1] == pytest.approx(2 / 5)
