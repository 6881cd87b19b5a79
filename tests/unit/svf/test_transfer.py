"""What transferring and shuffling promise of any z, and which bases are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.errors import InvalidZ, WrongBase
from zfleet.svf.factors import Factors, decompose
from zfleet.svf.transfer import check_same_shapes, shapes_of, shuffled, transfer
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z

few = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**20)
SHAPES = {"model.layers.0.mlp.up_proj": (6, 5), "model.layers.1.mlp.down_proj": (3, 40)}


def _factors(seed: int, base: str, **shapes: tuple[int, int]) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(*shape, generator=generator) for name, shape in (shapes or SHAPES).items()}
    return Factors({name: decompose(weight, torch.float32) for name, weight in weights.items()}, base, "mlp")


ONE, OTHER = _factors(0, "one"), _factors(1, "other")


@few
@given(seeds)
def test_onto_its_own_factors_nothing_changes(seed: int) -> None:
    z = random_z(ONE, seed)
    assert transfer(z, ONE, ONE).digest == z.digest


@few
@given(seeds)
def test_each_value_goes_to_the_singular_value_of_its_place(seed: int) -> None:
    z = random_z(ONE, seed)
    there = transfer(z, ONE, OTHER)
    there.check_fits(base="other", factors=OTHER.digest, layout=OTHER.layout)
    assert there.digest != z.digest
    assert all(torch.equal(there.values[name], value) for name, value in z.values.items())
    assert transfer(there, OTHER, ONE).digest == z.digest, "there and back"
    with pytest.raises(WrongBase):
        z.check_fits(base="other", factors=OTHER.digest, layout=OTHER.layout)


@few
@given(seeds, seeds)
def test_a_shuffle_keeps_the_values_of_each_matrix(seed: int, shuffle: int) -> None:
    z = random_z(ONE, seed)
    mixed = shuffled(z, shuffle)
    assert (mixed.base, mixed.factors, mixed.targets) == (z.base, z.factors, z.targets)
    for name, value in z.values.items():
        assert sorted(mixed.values[name].tolist()) == sorted(value.tolist())
    assert shuffled(z, shuffle).digest == mixed.digest
    ones = replace(z, values={name: torch.ones_like(value) for name, value in z.values.items()})
    assert shuffled(ones, shuffle).digest == ones.digest, "the base stays the base"


@few
@given(seeds, seeds, st.integers(0, 50))
def test_every_expert_is_shuffled_in_the_same_way(first: int, second: int, shuffle: int) -> None:
    a, b = random_z(ONE, first), random_z(ONE, second)
    total = replace(a, values={name: a.values[name] + b.values[name] for name in a.values})
    apart = {name: shuffled(a, shuffle).values[name] + shuffled(b, shuffle).values[name] for name in a.values}
    assert all(torch.equal(shuffled(total, shuffle).values[name], value) for name, value in apart.items())


def test_a_seed_and_a_matrix_have_a_permutation_of_their_own() -> None:
    """Those of seed 0, which results are quoted with, and which another release of torch must not change."""
    places = torch.arange(5).float()
    z = ZVector({name: places.clone() for name in ("a.0.b", "a.1.b")}, "base", "factors", "all")
    drawn = {seed: [value.int().tolist() for value in shuffled(z, seed).values.values()] for seed in (0, 1)}
    assert drawn[0] == [[2, 4, 1, 0, 3], [0, 2, 1, 3, 4]]
    assert drawn[0] != drawn[1]


def test_bases_that_differ_are_refused_with_the_names_of_their_matrices() -> None:
    z = random_z(ONE, 1)
    wider = _factors(1, "wider", **{**SHAPES, "model.layers.0.mlp.up_proj": (7, 5)})
    assert wider.layout == ONE.layout, "the ranks are equal: only the shapes tell them apart"
    with pytest.raises(WrongBase, match=r"in 1 of 2 .*: model\.layers\.0\.mlp\.up_proj is 6 x 5 and 7 x 5 "):
        transfer(z, ONE, wider)
    deeper = _factors(1, "deeper", **SHAPES, **{f"model.layers.{layer}.mlp.up_proj": (6, 5) for layer in range(2, 7)})
    with pytest.raises(WrongBase, match=r"layers\.2\.mlp\.up_proj is not there and 6 x 5, .*, and 2 more"):
        transfer(z, ONE, deeper)
    with pytest.raises(WrongBase, match="6 x 5 and not there"):
        check_same_shapes(shapes_of(ONE), {"model.layers.1.mlp.down_proj": (3, 40)})
    check_same_shapes(shapes_of(ONE), SHAPES)


def test_a_z_of_other_factors_than_the_origin_is_refused() -> None:
    z = random_z(ONE, 1)
    with pytest.raises(WrongBase, match="belongs to base"):
        transfer(z, OTHER, ONE)
    with pytest.raises(WrongBase, match="was trained on factors"):
        transfer(replace(z, factors="f" * 64), ONE, OTHER)
    with pytest.raises(InvalidZ, match="down_proj"):
        transfer(replace(z, values=dict(list(z.values.items())[:1])), ONE, OTHER)
