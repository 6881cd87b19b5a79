"""Alphas that are split: a number for each kind of matrix, or for each matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.errors import InvalidZ, SpecError
from zfleet.svf.layout import kind_of
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector

RANKS = {
    "model.layers.0.self_attn.q_proj": 3,
    "model.layers.0.mlp.up_proj": 5,
    "model.layers.1.self_attn.q_proj": 3,
    "model.layers.1.mlp.up_proj": 4,
}
few = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 2**20)
numbers = st.floats(-2, 2, allow_nan=False, width=32)


def expert(seed: int) -> ZVector:
    generator = torch.Generator().manual_seed(seed)
    values = {name: 1 + 0.3 * torch.randn(rank, generator=generator) for name, rank in RANKS.items()}
    return ZVector(values, "b", "f", "all")


@few
@given(seeds, seeds, numbers, numbers)
def test_alphas_by_kind_mix_each_kind_on_its_own(first: int, second: int, s: float, t: float) -> None:
    a, b = expert(first), expert(second)
    mixed = mix([a, b], [{"q_proj": s, "up_proj": t}, {"q_proj": t, "up_proj": s}])
    q, up = mix([a, b], [s, t]), mix([a, b], [t, s])
    for name, value in mixed.values.items():
        assert torch.equal(value, (q if kind_of(name) == "q_proj" else up).values[name])
    assert mix([a, b], [{"q_proj": s, "up_proj": s}, t]).digest == q.digest


@few
@given(seeds, st.lists(numbers, min_size=4, max_size=4))
def test_alphas_by_matrix_scale_each_matrix_on_its_own(seed: int, alphas: list[float]) -> None:
    z = expert(seed)
    mixed = mix([z], [dict(zip(RANKS, alphas, strict=True))])
    for name, alpha in zip(RANKS, alphas, strict=True):
        assert torch.equal(mixed.values[name], mix([z], [alpha]).values[name])


@few
@given(st.permutations(range(4)), st.lists(numbers, min_size=4, max_size=4))
def test_the_order_of_experts_and_of_names_does_not_matter(order: list[int], alphas: list[float]) -> None:
    # Two experts are the same z, so that their alphas decide the order.
    experts = [expert(0), expert(0), expert(1), expert(2)]
    split = [{"q_proj": alpha, "up_proj": -alpha} for alpha in alphas]
    turned: list[Mapping[str, float]] = [dict(reversed(one.items())) for one in split]
    shuffled = mix([experts[at] for at in order], [turned[at] for at in order])
    assert shuffled.digest == mix(experts, split).digest


def test_a_matrix_of_its_own_goes_before_its_kind() -> None:
    z = expert(0)
    own = "model.layers.1.mlp.up_proj"
    mixed = mix([z], [{"up_proj": 1.0, own: 0.0, "q_proj": 1.0}])
    assert [name for name in RANKS if not torch.equal(mixed.values[name], z.values[name])] == [own]
    assert bool((mixed.values[own] == 1).all())


@pytest.mark.parametrize(
    ("alpha", "error", "words"),
    [
        ({"q_proj": 1.0, "up_proj": 1.0, "down_proj": 1.0}, SpecError, "alpha names down_proj, .* no such matrix"),
        ({"model.layers.2.mlp.up_proj": 1.0}, SpecError, r"alpha names model\.layers\.2\.mlp\.up_proj"),
        ({"q_proj": 1.0}, SpecError, r"alpha has no number for model\.layers\.0\.mlp\.up_proj"),
        ({}, SpecError, "alpha has no number for"),
        ({"q_proj": 1.0, "up_proj": math.nan}, InvalidZ, "alpha is nan"),
    ],
)
def test_names_that_do_not_fit_are_refused(alpha: dict[str, float], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        mix([expert(0), expert(1)], [0.5, alpha])


def test_a_refusal_says_which_names_there_are() -> None:
    with pytest.raises(SpecError) as refused:
        mix([expert(0)], [{"mlp": 1.0}])
    assert refused.value.remedy == "name matrices, or kinds of them: q_proj, up_proj"
