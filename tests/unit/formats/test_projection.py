"""A projection is the nearest z, and its residual is the distance that is left."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zfleet.formats.projection import Residual, project_dense, project_product
from zfleet.svf.factors import MatrixFactors, decompose

few = settings(max_examples=40, deadline=None, derandomize=True)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**20)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _change(factors: MatrixFactors, z: Tensor) -> Tensor:
    return factors.merged(z) - factors.merged(torch.ones_like(z))


@few
@given(sizes, sizes, seeds)
def test_what_a_z_does_comes_back_and_leaves_nothing(m: int, n: int, seed: int) -> None:
    factors = decompose(_random(m, n, seed=seed), torch.float64)
    z = 1 + 0.3 * _random(min(m, n), seed=seed + 1)
    found, residual = project_dense("w", _change(factors, z), factors)
    assert torch.allclose(found.double(), z, atol=1e-6, rtol=1e-6)
    assert residual.relative < 1e-5, "more than the rounding of z to float32"


@few
@given(sizes, sizes, st.integers(1, 4), seeds)
def test_the_residual_is_the_distance_and_no_z_is_nearer(m: int, n: int, k: int, seed: int) -> None:
    factors = decompose(_random(m, n, seed=seed), torch.float64)
    b, a = _random(m, k, seed=seed + 1), _random(k, n, seed=seed + 2)
    z, residual = project_product("w", b, a, factors)
    distance = float((b @ a - _change(factors, z)).norm())
    assert residual.residual == pytest.approx(distance, rel=1e-6, abs=1e-6)
    assert residual.change == pytest.approx(float((b @ a).norm()), rel=1e-9)
    dense = project_dense("w", b @ a, factors)
    assert torch.allclose(dense[0], z, rtol=1e-5, atol=1e-5)
    for other in (z + 0.01, z * 1.01, z + 0.1 * _random(min(m, n), seed=seed + 3).float()):
        assert float((b @ a - _change(factors, other)).norm()) >= distance - 1e-6


def test_a_small_residual_of_float32_factors_is_not_lost_in_rounding() -> None:
    factors = decompose(_random(40, 30, seed=0), torch.float32)
    inside = _change(factors, 1 + 0.1 * _random(30, seed=1))
    # Outside of what any z can do: it has no part in any u_i v_i^T.
    outside = factors.u[:, :1].double() @ factors.vh[1:2].double()
    outside *= 1e-4 * inside.norm() / outside.norm()
    _, residual = project_dense("w", inside + outside, factors)
    assert residual.relative == pytest.approx(1e-4, rel=0.01)


def test_a_singular_value_of_zero_keeps_its_z() -> None:
    weight = _random(6, 1, seed=0) @ _random(1, 4, seed=1)
    factors = decompose(weight, torch.float64)
    z, residual = project_dense("w", _random(6, 4, seed=2), factors)
    assert torch.equal(z[1:], torch.ones(3))
    assert 0.5 < residual.relative < 1
    nothing, empty = project_dense("w", torch.zeros(6, 4), decompose(torch.zeros(6, 4), torch.float32))
    assert torch.equal(nothing, torch.ones(4))
    assert (empty.change, empty.relative) == (0, 0)


def test_residuals_add_up_in_squares() -> None:
    total = Residual.total([Residual("a", 3.0, 0.3), Residual("b", 4.0, 0.4)])
    assert (total.change, total.residual, total.relative) == pytest.approx((5.0, 0.5, 0.1))
    assert Residual.total([]).relative == 0
