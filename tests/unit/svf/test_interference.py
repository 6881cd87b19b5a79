"""What angle and overlap promise of any experts: they are those of the dense weight changes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zfleet.errors import InvalidZ, SpecError, WrongBase
from zfleet.svf.factors import Factors, decompose
from zfleet.svf.interference import Interference, predict_interference
from zfleet.svf.zvector import ZVector

few = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**20)
spreads = st.floats(0.01, 3)
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"


def _factors(seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    shapes = {UP: (5, 4), DOWN: (3, 6)}
    weights = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return Factors({name: decompose(weight, torch.float32) for name, weight in weights.items()}, "base", "mlp")


def _z(factors: Factors, seed: int, spread: float = 0.3) -> ZVector:
    generator = torch.Generator().manual_seed(seed)
    values = {name: 1 + spread * torch.randn(s.numel(), generator=generator) for name, s in _s(factors).items()}
    return _with(factors, values)


def _with(factors: Factors, values: dict[str, Tensor]) -> ZVector:
    return ZVector(values, factors.base, factors.digest, factors.targets)


def _s(factors: Factors) -> dict[str, Tensor]:
    return factors.singular_values


def _dense(factors: Factors, z: ZVector, name: str) -> Tensor:
    """W' - W, flattened."""
    matrix = factors.matrices[name]
    return (matrix.merged(z.values[name]) - matrix.merged(torch.ones_like(matrix.s))).flatten()


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def _pair(first: ZVector, second: ZVector, factors: Factors) -> Interference:
    return predict_interference({"a": first, "b": second}, factors)


@few
@given(seeds, seeds, seeds, spreads)
def test_the_cosine_is_that_of_the_dense_weight_changes(matrices: int, one: int, other: int, spread: float) -> None:
    factors = _factors(matrices)
    a, b = _z(factors, one, spread), _z(factors, other)
    found = _pair(a, b, factors)
    for name in (UP, DOWN):
        expected = _cosine(_dense(factors, a, name), _dense(factors, b, name))
        assert float(found.matrices[name].cosine[0, 1]) == pytest.approx(expected, abs=1e-5)
    whole = [torch.cat([_dense(factors, z, name) for name in (UP, DOWN)]) for z in (a, b)]
    assert float(found.overall.cosine[0, 1]) == pytest.approx(_cosine(*whole), abs=1e-5)
    base = torch.cat([factors.matrices[name].merged(torch.ones_like(s)).flatten() for name, s in _s(factors).items()])
    assert found.size.tolist() == pytest.approx([float(one.norm() / base.norm()) for one in whole], rel=1e-5)


@few
@given(st.lists(seeds, min_size=2, max_size=5))
def test_laws_of_angle_and_overlap(chosen: list[int]) -> None:
    factors = _factors()
    found = predict_interference({str(place): _z(factors, seed) for place, seed in enumerate(chosen)}, factors)
    for one in (found.overall, *found.matrices.values()):
        assert torch.allclose(one.cosine, one.cosine.T)
        assert torch.allclose(one.overlap, one.overlap.T)
        assert bool((one.cosine.abs() <= one.overlap + 1e-9).all())
        assert bool((one.overlap <= 1).all())
        assert torch.allclose(one.angle.diagonal(), torch.zeros(len(chosen), dtype=torch.float64), atol=1e-4)
        assert torch.allclose(one.overlap.diagonal(), torch.ones(len(chosen), dtype=torch.float64))


@few
@given(seeds, st.floats(0.05, 5))
def test_only_the_direction_of_a_change_counts(seed: int, factor: float) -> None:
    factors = _factors()
    a = _z(factors, seed)
    longer = _with(factors, {name: 1 + factor * (value - 1) for name, value in a.values.items()})
    against = _with(factors, {name: 1 - factor * (value - 1) for name, value in a.values.items()})
    assert float(_pair(a, longer, factors).overall.angle[0, 1]) == pytest.approx(0, abs=0.05)
    opposite = _pair(a, against, factors).overall
    assert float(opposite.angle[0, 1]) == pytest.approx(180, abs=0.05)
    assert float(opposite.overlap[0, 1]) == pytest.approx(1, abs=1e-6)


@few
@given(seeds, st.integers(1, 3))
def test_experts_that_change_different_directions_have_nothing_in_common(seed: int, split: int) -> None:
    factors = _factors()
    whole = _z(factors, seed)
    first = {name: torch.cat([value[:split], torch.ones_like(value[split:])]) for name, value in whole.values.items()}
    rest = {name: torch.cat([torch.ones_like(value[:split]), value[split:]]) for name, value in whole.values.items()}
    rest[DOWN] = torch.ones_like(rest[DOWN]) if split == 3 else rest[DOWN]
    found = _pair(_with(factors, first), _with(factors, rest), factors).overall
    assert float(found.overlap[0, 1]) == 0
    assert float(found.angle[0, 1]) == pytest.approx(90)


def test_a_change_counts_by_its_singular_value() -> None:
    """By z - 1 alone these two would be at 90 degrees, with s they nearly agree: by hand."""
    factors = Factors({UP: decompose(torch.diag(torch.tensor([10.0, 1.0])), torch.float32)}, "base", "mlp")
    a, b = (_with(factors, {UP: 1 + torch.tensor(change)}) for change in ([1.0, 1.0], [1.0, -1.0]))
    found = _pair(a, b, factors).overall
    assert float(found.cosine[0, 1]) == pytest.approx(99 / 101)
    assert float(found.overlap[0, 1]) == pytest.approx(1.0)
    assert float(found.angle[0, 1]) == pytest.approx(math.degrees(math.acos(99 / 101)))


def test_signs_that_oppose_cancel_in_the_angle_and_not_in_the_overlap() -> None:
    factors = Factors({UP: decompose(torch.eye(2), torch.float32)}, "base", "mlp")
    a, b = (_with(factors, {UP: 1 + torch.tensor(change)}) for change in ([1.0, 1.0], [1.0, -1.0]))
    found = _pair(a, b, factors).overall
    assert (float(found.cosine[0, 1]), float(found.overlap[0, 1])) == pytest.approx((0.0, 1.0))


def test_the_base_has_no_angle() -> None:
    factors = _factors()
    a = _z(factors, 1)
    still = _with(factors, a.values | {UP: torch.ones_like(a.values[UP])})  # type: ignore[operator]
    nothing = _with(factors, {name: torch.ones_like(value) for name, value in a.values.items()})
    found = _pair(a, nothing, factors)
    assert torch.isnan(found.overall.angle).tolist() == [[False, True], [True, True]]
    assert float(found.size[1]) == 0
    assert torch.isnan(found.overall.overlap).tolist() == [[False, True], [True, True]]
    one_matrix = _pair(a, still, factors)
    assert math.isnan(float(one_matrix.matrices[UP].cosine[0, 1]))
    assert not math.isnan(float(one_matrix.overall.cosine[0, 1]))


def test_experts_without_pairs_or_of_other_factors_are_refused() -> None:
    factors = _factors()
    a = _z(factors, 1)
    with pytest.raises(SpecError, match="1 experts have no pairs"):
        predict_interference({"a": a}, factors)
    with pytest.raises(WrongBase, match="trained on factors"):
        _pair(a, ZVector(a.values, "base", "f" * 64, "mlp"), factors)
    with pytest.raises(WrongBase, match="belongs to base"):
        _pair(a, ZVector(a.values, "other", factors.digest, "mlp"), factors)
    with pytest.raises(InvalidZ, match="down_proj"):
        _pair(a, _with(factors, {UP: a.values[UP]}), factors)
