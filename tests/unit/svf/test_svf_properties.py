"""What the SVF linear and the algebra of z promise, for any small matrix, z and mixture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from zfleet.errors import InvalidZ, SpecError, WrongBase
from zfleet.models.base import Base
from zfleet.models.svf_model import SvfModel
from zfleet.svf.factors import Factors, MatrixFactors, decompose
from zfleet.svf.layout import layer_of
from zfleet.svf.linear import RowBinding, SvfLinear, merge_into, replace_linears
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector

few = settings(max_examples=20, deadline=None, derandomize=True)
sizes = st.integers(1, 7)
seeds = st.integers(0, 2**20)
alphas = st.floats(-2, 2, allow_nan=False, width=32)

MakeZ = Callable[..., ZVector]
RANKS = {"model.layers.0.mlp.up_proj": 5, "model.layers.1.mlp.up_proj": 3}


def _random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _linear(m: int, n: int, seed: int, dtype: torch.dtype, bias: bool = True) -> tuple[nn.Linear, MatrixFactors]:
    linear = nn.Linear(n, m, bias=bias, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(_random(m, n, seed=seed))
        if bias:
            linear.bias.copy_(_random(m, seed=seed + 1))
    return linear, decompose(linear.weight.detach(), dtype)


def _svf(m: int, n: int, seed: int, dtype: torch.dtype) -> tuple[nn.Linear, MatrixFactors, SvfLinear, RowBinding]:
    linear, factors = _linear(m, n, seed, dtype)
    binding = RowBinding()
    return linear, factors, SvfLinear("w", linear, factors, binding), binding


def _small(seed: int, base: str = "b", factors: str = "f") -> ZVector:
    values = {name: 1 + _random(rank, seed=seed + place).float() for place, (name, rank) in enumerate(RANKS.items())}
    return ZVector(values, base, factors, "mlp")


def _same(first: ZVector, second: ZVector, tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(first.values[n], second.values[n], atol=tolerance, rtol=tolerance) for n in first.values)


@few
@given(sizes, sizes, seeds)
def test_z_of_ones_is_the_plain_linear(m: int, n: int, seed: int) -> None:
    linear, factors, svf, binding = _svf(m, n, seed, torch.float32)
    x = _random(2, 3, n, seed=seed + 2, dtype=torch.float32)
    with binding.bound({"w": torch.ones(2, factors.s.numel())}):
        assert torch.allclose(svf(x), linear(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(svf(x), linear(x)), "a batch of base rows alone does not use W itself"


@few
@given(sizes, sizes, seeds)
def test_each_row_is_its_merged_linear(m: int, n: int, seed: int) -> None:
    linear, factors, svf, binding = _svf(m, n, seed, torch.float32)
    z = 1 + _random(4, factors.s.numel(), seed=seed + 3, dtype=torch.float32)
    x = _random(4, 3, n, seed=seed + 2, dtype=torch.float32)
    with binding.bound({"w": z}):
        together = svf(x)
    for row in range(4):
        merged = nn.functional.linear(x[row], factors.merged(z[row]).float(), linear.bias)
        assert torch.allclose(together[row], merged, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_bfloat16_linear_takes_a_z_that_bfloat16_cannot_hold() -> None:
    _, factors = _linear(16, 16, 0, torch.float32)
    binding = RowBinding()
    svf = SvfLinear("w", nn.Linear(16, 16, dtype=torch.bfloat16), factors, binding)
    x = _random(1, 5, 16, seed=1, dtype=torch.bfloat16)
    answers = []
    for value in (1.0, 1.003):
        with binding.bound({"w": torch.full((1, 16), value)}):
            answers.append(svf(x))
    assert torch.tensor(1.003).bfloat16() == 1
    assert not torch.equal(*answers)


@few
@given(sizes, sizes, seeds)
def test_gradient_in_z_is_that_of_the_merged_weight(m: int, n: int, seed: int) -> None:
    linear, factors, svf, binding = _svf(m, n, seed, torch.float64)
    r = factors.s.numel()
    z = (1 + 0.5 * _random(3, r, seed=seed + 3)).requires_grad_()
    x = _random(3, 2, n, seed=seed + 2)

    def through_factors(z: Tensor) -> Tensor:
        with binding.bound({"w": z}):
            out: Tensor = svf(x)
            return out.sin()

    def through_weights(z: Tensor) -> Tensor:
        weights = torch.stack([(factors.u * (factors.s * row)) @ factors.vh for row in z])
        return (x @ weights.transpose(1, 2) + linear.bias.detach()).sin()

    (gradient,) = torch.autograd.grad(through_factors(z).sum(), z)
    (expected,) = torch.autograd.grad(through_weights(z).sum(), z)
    assert torch.allclose(gradient, expected, atol=1e-9, rtol=1e-9)
    assert torch.autograd.gradcheck(through_factors, (z,))


def test_only_z_has_a_gradient(tiny_model: SvfModel) -> None:
    assert not [name for name, p in tiny_model.base.model.named_parameters() if p.requires_grad]


def test_replacing_linears_twice_is_refused() -> None:
    model = nn.Sequential(_linear(3, 3, 0, torch.float32)[0])
    factors = {"0": decompose(model[0].weight, torch.float32)}  # type: ignore[arg-type]
    replace_linears(model, factors, RowBinding())
    with pytest.raises(ValueError, match="already"):
        replace_linears(model, factors, RowBinding())


def test_mixed_rows_give_the_logits_of_their_merged_models(
    tiny_model: SvfModel, tiny_base: Base, tiny_factors: Factors, make_z: MakeZ
) -> None:
    experts = [make_z(seed) for seed in range(3)]
    experts.append(mix([experts[0]], [0.0]))
    rows = torch.stack([z.flat(tiny_model.layout) for z in experts])
    ids = torch.randint(5, tiny_base.model.config.vocab_size, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = tiny_model.logits(ids, rows)
        for row, z in enumerate(experts):
            merged = copy.deepcopy(tiny_base.model)
            merge_into(merged, dict(tiny_factors.matrices), dict(z.values))
            assert torch.allclose(together[row], merged(input_ids=ids[row : row + 1]).logits[0], atol=1e-3, rtol=1e-3)
        plain = tiny_base.model(input_ids=ids).logits
        assert torch.allclose(together[3], plain[3], atol=1e-3, rtol=1e-3), "z = 1 is not the base"
        assert not torch.allclose(together[0], plain[0], atol=0.1), "the z of this test change nothing"
        assert torch.equal(tiny_model.logits(ids, None), plain), "base rows alone do not use W"


@few
@given(st.lists(seeds, min_size=1, max_size=4), st.data())
def test_the_order_of_experts_does_not_matter(chosen: list[int], data: st.DataObject) -> None:
    pairs = [(_small(seed), data.draw(alphas)) for seed in chosen]
    shuffled = data.draw(st.permutations(pairs))
    first, second = (mix([z for z, _ in order], [a for _, a in order]) for order in (pairs, shuffled))
    assert first.digest == second.digest


@few
@given(st.lists(seeds, min_size=1, max_size=4))
def test_alpha_zero_is_the_base_exactly(chosen: list[int]) -> None:
    experts = [_small(seed) for seed in chosen]
    nothing = mix(experts, [0.0] * len(experts))
    assert all(bool((value == 1).all()) for value in nothing.values.values())


@few
@given(st.lists(seeds, min_size=1, max_size=4), st.data())
def test_a_mixture_is_float64_in_digest_order_rounded_once(chosen: list[int], data: st.DataObject) -> None:
    experts = [_small(seed) for seed in chosen]
    chosen_alphas = [data.draw(alphas) for _ in experts]
    mixed = mix(experts, chosen_alphas)
    ordered = sorted(zip(experts, chosen_alphas, strict=True), key=lambda pair: (pair[0].digest, pair[1]))
    for name, rank in RANKS.items():
        total = np.ones(rank, np.float64)
        for z, alpha in ordered:
            total = total + np.float64(alpha) * (z.values[name].numpy().astype(np.float64) - 1.0)
        assert mixed.values[name].numpy().tobytes() == total.astype(np.float32).tobytes()


def test_rounding_in_float32_on_the_way_would_show() -> None:
    z = _small(0)
    parts = mix([z] * 30, [0.1] * 30)
    wrong = {}
    for name, value in z.values.items():
        wrong[name] = torch.ones_like(value)
        for _ in range(30):
            wrong[name] += 0.1 * (value - 1)
    assert any(not torch.equal(wrong[name], parts.values[name]) for name in RANKS), "the test above could not fail"


@few
@given(seeds, seeds, alphas, alphas)
def test_laws_of_the_algebra(a_seed: int, b_seed: int, s: float, t: float) -> None:
    a, b = _small(a_seed), _small(b_seed)
    base = mix([a], [0.0])
    assert mix([a], [1.0]).digest == a.digest
    assert mix([a, base], [1.0, s]).digest == a.digest, "the base changes what it is mixed with"
    assert mix([a, b], [1.0, 0.0]).digest == a.digest
    assert mix([a, a], [1.0, -1.0]).digest == base.digest
    assert _same(mix([mix([a], [s])], [t]), mix([a], [s * t]), 1e-4)
    assert _same(mix([mix([a, b], [1.0, -1.0]), b], [1.0, 1.0]), a)
    together = mix([a, b], [s, 1.0 - s])
    paper = {name: s * a.values[name].double() + (1 - s) * b.values[name].double() for name in RANKS}
    assert all(torch.allclose(together.values[name].double(), paper[name], atol=1e-5) for name in RANKS)


@few
@given(seeds, seeds, alphas, alphas)
def test_alphas_by_layer(a_seed: int, b_seed: int, s: float, t: float) -> None:
    a, b = _small(a_seed), _small(b_seed)
    assert mix([a, b], [(s, s), (t, t)]).digest == mix([a, b], [s, t]).digest
    layered = mix([a, b], [(s, 0.0), (0.0, t)])
    for name in RANKS:
        alone = mix([a], [s]) if layer_of(name) == 0 else mix([b], [t])
        assert torch.equal(layered.values[name], alone.values[name])


@pytest.mark.parametrize(
    ("experts", "coefficients", "error"),
    [
        ([], [], SpecError),
        ([_small(0)], [1.0, 2.0], SpecError),
        ([_small(0)], [(1.0, 2.0, 3.0)], SpecError),
        ([_small(0)], [float("nan")], InvalidZ),
        ([_small(0)], [float("inf")], InvalidZ),
        ([_small(0)], [1e300], InvalidZ),
        ([_small(0), _small(1, base="other")], [1.0, 1.0], WrongBase),
        ([_small(0), _small(1, factors="other")], [1.0, 1.0], WrongBase),
        ([_small(0), ZVector({"model.layers.0.mlp.up_proj": torch.ones(5)}, "b", "f", "x")], [1.0, 1.0], InvalidZ),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(
    experts: Sequence[ZVector], coefficients: Sequence[float | tuple[float, ...]], error: type[Exception]
) -> None:
    with pytest.raises(error):
        mix(experts, coefficients)
