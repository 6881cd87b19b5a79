"""The rank-k choice and its error in closed form, against the matrices themselves."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zfleet.svf.directions import changes, choose_directions, truncation
from zfleet.svf.factors import MatrixFactors, decompose

few = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**20)
sizes = st.integers(1, 7)


def _experts(m: int, n: int, experts: int, seed: int) -> tuple[MatrixFactors, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    factors = decompose(torch.randn(m, n, generator=generator), torch.float64)
    return factors, 1 + torch.randn(experts, factors.s.numel(), generator=generator)


@few
@given(sizes, sizes, st.integers(1, 3), st.integers(1, 9), seeds)
def test_the_error_is_that_of_the_matrices(m: int, n: int, experts: int, k: int, seed: int) -> None:
    factors, z = _experts(m, n, experts, seed)
    kept = choose_directions(z, factors.s, k)
    left = truncation(z, factors.s, kept)
    base = factors.merged(torch.ones_like(factors.s))
    for row in range(experts):
        near = torch.ones_like(factors.s)
        near[kept] = z[row, kept].double()
        whole = factors.merged(z[row])
        missing = (whole - factors.merged(near)).norm()
        assert torch.isclose(left.absolute[row], missing, atol=1e-9)
        assert torch.isclose(left.relative[row] * (whole - base).norm(), missing, atol=1e-9)


@few
@given(sizes, sizes, st.integers(1, 9), seeds)
def test_for_one_expert_no_rank_k_change_is_nearer(m: int, n: int, k: int, seed: int) -> None:
    factors, z = _experts(m, n, 1, seed)
    change = factors.merged(z[0]) - factors.merged(torch.ones_like(factors.s))
    best = torch.linalg.svdvals(change)[k:].norm()
    left = truncation(z, factors.s, choose_directions(z, factors.s, k))
    assert torch.isclose(left.absolute[0], best, atol=1e-9)


def test_an_experts_one_large_change_is_kept_whoever_else_is_served() -> None:
    s = torch.tensor([4.0, 3.0, 2.0, 1.0])
    z = torch.ones(3, 4)
    z[0, :2] += 0.1
    z[1, :2] -= 0.1
    z[2, 3] = 9.0
    assert choose_directions(z, s, 1).tolist() == [3]
    assert choose_directions(z, s, 2).tolist() == [0, 3]
    assert choose_directions(z, s, 9).tolist() == [0, 1, 2, 3]


def test_the_base_loses_nothing() -> None:
    s = torch.tensor([2.0, 1.0])
    left = truncation(torch.ones(1, 2), s, torch.tensor([0]))
    assert left.absolute.tolist() == [0.0]
    assert left.relative.tolist() == [0.0]


def test_changes_are_computed_in_float64() -> None:
    assert changes(torch.ones(1, 1), torch.ones(1)).dtype == torch.float64
