"""Carrying an expert to a base that holds the same matrices, and to none that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from zfleet.errors import InvalidZ, WrongBase
from zfleet.svf.carry import carry
from zfleet.svf.factors import Factors, decompose
from zfleet.testing.parity import random_z


def test_factors_with_other_signs_are_the_same_matrices(tiny_factors: Factors) -> None:
    """As another machine may compute them."""
    turned = {name: replace(matrix, u=-matrix.u, vh=-matrix.vh) for name, matrix in tiny_factors.matrices.items()}
    z = random_z(tiny_factors, 1)
    to = Factors(turned, "elsewhere", tiny_factors.targets)
    carried = carry(z, tiny_factors, to)
    carried.check_fits(base="elsewhere", factors=to.digest, layout=to.layout)
    assert carried.digest != z.digest


def test_a_tower_that_was_trained_on_is_refused_by_matrix(tiny_factors: Factors) -> None:
    name = list(tiny_factors.matrices)[3]
    changed = dict(tiny_factors.matrices)
    changed[name] = replace(changed[name], s=changed[name].s * 1.001)
    with pytest.raises(WrongBase, match=name):
        carry(random_z(tiny_factors, 1), tiny_factors, Factors(changed, "tuned", tiny_factors.targets))


def test_a_change_of_training_is_seen_beside_a_large_singular_value() -> None:
    generator = torch.Generator().manual_seed(0)
    size = 128
    weight = 0.02 * torch.randn(size, size, generator=generator) + 0.15
    tuned = weight + 1e-4 * torch.randn(size, size, generator=generator)
    name = "model.layers.0.mlp.up_proj"
    one, other = (
        Factors({name: decompose(w, torch.float32)}, base, "mlp") for w, base in ((weight, "a"), (tuned, "b"))
    )
    with pytest.raises(WrongBase, match=name):
        carry(random_z(one, 1), one, other)


def test_an_expert_is_carried_only_between_the_same_matrices(tiny_factors: Factors) -> None:
    fewer = dict(list(tiny_factors.matrices.items())[1:])
    with pytest.raises(InvalidZ, match="q_proj"):
        carry(random_z(tiny_factors, 1), tiny_factors, Factors(fewer, "fewer", tiny_factors.targets))
    with pytest.raises(WrongBase, match="belongs to base"):
        carry(random_z(tiny_factors, 1), Factors(tiny_factors.matrices, "other", "all"), tiny_factors)
