"""Two z compared layer by layer."""

from __future__ import annotations

import pytest
import torch

from zfleet.errors import WrongBase
from zfleet.svf.difference import layer_differences
from zfleet.svf.zvector import ZVector


def z(factors: str = "f" * 64, **values: list[float]) -> ZVector:
    named = {f"model.layers.{key[1:]}.mlp.up_proj": torch.tensor(value) for key, value in values.items()}
    return ZVector(named, "b" * 64, factors, "mlp")


def test_each_layer_is_compared() -> None:
    first = z(l0=[2.0, 1.0], l1=[1.0, 1.0], l2=[3.0, 3.0])
    second = z(l0=[1.0, 3.0], l1=[2.0, 2.0])
    found = layer_differences(first, second)
    numbers = [(one.layer, one.first, one.second, one.difference) for one in found]
    assert numbers == [
        pytest.approx((0, 0.5**0.5, 2**0.5, 2.5**0.5)),
        pytest.approx((1, 0.0, 1.0, 1.0)),
        pytest.approx((2, 2.0, 0.0, 2.0)),
    ]
    assert [(one.cosine, one.only_one) for one in found] == [(0.0, 0), (None, 0), (None, 1)]


def test_equal_z_do_not_differ() -> None:
    (only,) = layer_differences(z(l0=[2.0, 0.5]), z(l0=[2.0, 0.5]))
    assert only.difference == 0.0
    assert only.cosine == pytest.approx(1.0)


def test_other_factors_are_refused() -> None:
    with pytest.raises(WrongBase, match="different bases or factors"):
        layer_differences(z(l0=[1.0]), z("e" * 64, l0=[1.0]))
