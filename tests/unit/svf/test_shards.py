"""Sharded factors, put together again over ranks, are the whole matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.errors import FactorsError
from zfleet.svf.factors import MatrixFactors, decompose
from zfleet.svf.shards import OutputPart, shard_inputs, shard_outputs

few = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**20)
worlds = st.integers(1, 4)


def _matrix(m: int, n: int, seed: int) -> tuple[torch.Tensor, MatrixFactors, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    factors = decompose(torch.randn(m, n, generator=generator), torch.float64)
    z = torch.randn(factors.s.numel(), generator=generator)
    return factors.merged(z), factors, z


@few
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 9), worlds, seeds)
def test_output_shares_are_the_rows_of_each_part(shares: list[int], n: int, world: int, seed: int) -> None:
    sizes = [share * world for share in shares]
    whole, factors, z = _matrix(sum(sizes), n, seed)
    parts = tuple(OutputPart(size) for size in sizes)
    ranks = [shard_outputs(factors, parts, rank, world).merged(z) for rank in range(world)]
    again = torch.cat([torch.cat([rank.split(shares)[place] for rank in ranks]) for place in range(len(sizes))])
    assert torch.allclose(again, whole, atol=1e-12)


@few
@given(st.integers(1, 9), st.integers(1, 4), worlds, seeds)
def test_input_shares_add_up(m: int, share: int, world: int, seed: int) -> None:
    whole, factors, z = _matrix(m, share * world, seed)
    x = torch.randn(5, share * world, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    partial = [
        part @ shard_inputs(factors, rank, world).merged(z).t() for rank, part in enumerate(x.split(share, dim=1))
    ]
    assert torch.allclose(torch.stack(partial).sum(0), x @ whole.t(), atol=1e-10)


def test_ranks_that_replicate_a_key_value_head_hold_the_same_rows() -> None:
    _, factors, _ = _matrix(8, 6, 0)
    shares = [shard_outputs(factors, (OutputPart(8, replicas=2),), rank, 4).u for rank in range(4)]
    assert torch.equal(shares[0], factors.u[:4])
    assert torch.equal(shares[0], shares[1])
    assert torch.equal(shares[2], shares[3])
    assert torch.equal(torch.cat([shares[0], shares[2]]), factors.u)


def test_shares_that_do_not_come_out_even_are_refused() -> None:
    _, factors, _ = _matrix(6, 6, 0)
    with pytest.raises(FactorsError, match=r"6 outputs .* 4 ranks"):
        shard_outputs(factors, (OutputPart(6),), 0, 4)
    with pytest.raises(FactorsError, match=r"6 inputs .* 4 ranks"):
        shard_inputs(factors, 0, 4)
    with pytest.raises(FactorsError, match=r"\[4, 1\] outputs do not make the matrix's 6"):
        shard_outputs(factors, (OutputPart(4), OutputPart(1)), 0, 1)
    with pytest.raises(FactorsError, match=r"3 ranks .* 2 replicas"):
        shard_outputs(factors, (OutputPart(6, replicas=2),), 0, 3)
