"""The choices of directions, and their error in closed form, against the matrices themselves."""

from __future__ import annotations

from itertools import combinations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zfleet.svf.directions import changes, fewest_directions, largest_directions, truncation_error
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
    kept = largest_directions(z, factors.s, k)
    errors = truncation_error(z, factors.s, kept)
    base = factors.merged(torch.ones_like(factors.s))
    for row in range(experts):
        near = torch.ones_like(factors.s)
        near[kept] = z[row, kept].double()
        missing = (factors.merged(z[row]) - factors.merged(near)).norm()
        assert torch.isclose(errors[row] * base.norm(), missing, atol=1e-9)


@few
@given(sizes, sizes, st.integers(1, 9), seeds)
def test_for_one_expert_no_rank_k_change_is_nearer(m: int, n: int, k: int, seed: int) -> None:
    factors, z = _experts(m, n, 1, seed)
    base = factors.merged(torch.ones_like(factors.s))
    best = torch.linalg.svdvals(factors.merged(z[0]) - base)[k:].norm()
    (error,) = truncation_error(z, factors.s, largest_directions(z, factors.s, k))
    assert torch.isclose(error * base.norm(), best, atol=1e-9)


def _sparse(r: int, experts: int, seed: int) -> tuple[Tensor, Tensor]:
    """Singular values, and experts that change some directions each, so that their smallest common set is no prefix."""
    generator = torch.Generator().manual_seed(seed)
    s = torch.rand(r, generator=generator) + 0.1
    touched = torch.rand(experts, r, generator=generator) < 0.5
    return s, torch.where(touched, 1 + 0.3 * torch.randn(experts, r, generator=generator), torch.ones(experts, r))


bounds = st.floats(1e-4, 0.5)


@few
@given(st.integers(1, 12), st.integers(1, 5), bounds, seeds)
def test_every_expert_is_within_the_bound_and_no_direction_can_be_left_out(
    r: int, experts: int, bound: float, seed: int
) -> None:
    s, z = _sparse(r, experts, seed)
    kept = fewest_directions(z, s, bound)
    assert bool((truncation_error(z, s, kept) <= bound).all())
    for left_out in kept.tolist():
        fewer = torch.tensor([place for place in kept.tolist() if place != left_out], dtype=torch.int64)
        assert bool((truncation_error(z, s, fewer) > bound * (1 - 1e-6)).any())


@few
@given(st.integers(1, 8), st.integers(1, 4), bounds, seeds)
def test_for_one_expert_no_set_is_smaller_and_several_need_as_many_as_the_most_demanding(
    r: int, experts: int, bound: float, seed: int
) -> None:
    s, z = _sparse(r, experts, seed)

    def smallest(own: Tensor) -> int:
        """Try all sets."""
        for size in range(r + 1):
            for chosen in combinations(range(r), size):
                if bool((truncation_error(own, s, torch.tensor(chosen, dtype=torch.int64)) <= bound).all()):
                    return size
        raise AssertionError

    alone = [len(fewest_directions(own, s, bound)) for own in z.split(1)]
    assert alone == [smallest(own) for own in z.split(1)]
    assert max(alone) <= smallest(z) <= len(fewest_directions(z, s, bound))


def test_experts_within_the_bound_need_no_directions() -> None:
    s = torch.tensor([4.0, 3.0])
    assert fewest_directions(1 + 1e-4 * torch.ones(2, 2), s, 1e-3).tolist() == []
    assert fewest_directions(torch.ones(1, 2), torch.zeros(2), 1e-3).tolist() == []


def test_an_experts_one_large_change_is_kept_whoever_else_is_served() -> None:
    s = torch.tensor([4.0, 3.0, 2.0, 1.0])
    z = torch.ones(3, 4)
    z[0, :2] += 0.1
    z[1, :2] -= 0.1
    z[2, 3] = 9.0
    assert largest_directions(z, s, 1).tolist() == [3]
    assert largest_directions(z, s, 2).tolist() == [0, 3]
    assert largest_directions(z, s, 9).tolist() == [0, 1, 2, 3]
    assert fewest_directions(z, s, 0.3).tolist() == [3]


def test_the_base_loses_nothing() -> None:
    s = torch.tensor([2.0, 1.0])
    assert truncation_error(torch.ones(1, 2), s, torch.tensor([0])).tolist() == [0.0]
    assert truncation_error(torch.zeros(1, 2), torch.zeros(2), torch.tensor([0])).tolist() == [0.0]


def test_changes_are_computed_in_float64() -> None:
    assert changes(torch.ones(1, 1), torch.ones(1)).dtype == torch.float64
