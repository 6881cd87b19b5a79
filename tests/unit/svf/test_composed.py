"""A linear of many tokens under one z: the same answers and gradients, whichever form computes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zfleet.svf.composed import composed_linear, composing_pays
from zfleet.svf.factors import decompose
from zfleet.svf.linear import RowBinding, SvfLinear


def _svf(m: int, n: int, dtype: torch.dtype = torch.float64, bias: bool = True) -> SvfLinear:
    torch.manual_seed(m * n)
    linear = nn.Linear(n, m, bias=bias, dtype=dtype)
    return SvfLinear("w", linear, decompose(linear.weight.detach(), dtype), RowBinding())


def _run(svf: SvfLinear, x: Tensor, z: Tensor) -> Tensor:
    with svf.binding.bound({"w": z}):
        out: Tensor = svf(x)
    return out


def _composed(out: Tensor) -> bool:
    assert out.grad_fn is not None
    return "_ComposedLinear" in out.grad_fn.name()


def _gradients(out: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    dx, dz = torch.autograd.grad(out.sin().sum(), (x, z))
    return dx, dz.sum(0)


@pytest.mark.parametrize(("m", "n"), [(6, 6), (5, 7), (7, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_finite_differences(m: int, n: int, bias: bool) -> None:
    svf = _svf(m, n, bias=bias)
    x = torch.randn(2, 3, n, dtype=torch.float64, requires_grad=True)
    z = torch.rand(min(m, n), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, z: composed_linear(x, z, svf.us, svf.vh, svf.bias), (x, z))


@pytest.mark.parametrize(("m", "n"), [(6, 6), (6, 7), (7, 6)])
def test_one_z_of_many_tokens_is_composed_and_gives_what_rows_give(m: int, n: int) -> None:
    svf, r = _svf(m, n), min(m, n)
    x = torch.randn(4, 20, n, dtype=torch.float64, requires_grad=True)
    z = (1 + torch.rand(1, r, dtype=torch.float64)).requires_grad_()
    rows = z.detach().repeat(4, 1).requires_grad_()
    one, each = _run(svf, x, z), _run(svf, x, rows)
    assert _composed(one)
    assert not _composed(each)
    assert torch.allclose(one, each, rtol=1e-12, atol=1e-12)
    for mine, other in zip(_gradients(one, x, z), _gradients(each, x, rows), strict=True):
        assert torch.allclose(mine, other, rtol=1e-12, atol=1e-12)


def test_factors_serve_few_tokens_long_matrices_and_all_that_is_not_learned_from() -> None:
    many, few = torch.randn(4, 20, 6, dtype=torch.float64), torch.randn(4, 3, 6, dtype=torch.float64)
    z = torch.ones(1, 6, dtype=torch.float64, requires_grad=True)
    assert _composed(_run(_svf(6, 6), many, z))
    assert not _composed(_run(_svf(6, 6), few, z))
    assert not _composed(_run(_svf(13, 6), many, z))
    alone = _run(_svf(6, 6), many[:1].repeat(1, 4, 1), z.detach())
    in_a_batch = _run(_svf(6, 6), many[:1].repeat(2, 4, 1), z.detach().repeat(2, 1))
    assert torch.equal(alone[0], in_a_batch[0]), "an engine's answer depends on its batch"


@pytest.mark.parametrize(
    ("tokens", "m", "n", "pays"),
    # Square, 3 t r^2 + 2 r^3 < 0.9 x 4 t r^2: from 3 1/3 r on. Where one side is 1.5 times the other, never.
    [(1000, 300, 300, False), (1001, 300, 300, True), (10**6, 450, 300, False), (10**6, 300, 450, False)],
)
def test_a_tenth_less_multiplications_is_what_pays(tokens: int, m: int, n: int, pays: bool) -> None:
    r = min(m, n)
    assert composing_pays(tokens, torch.empty(m, r), torch.empty(r, n)) is pays


def test_one_z_on_factors_is_rows_of_it_to_the_last_bit() -> None:
    svf = _svf(13, 6, torch.float32)
    x, z = torch.randn(4, 20, 6, requires_grad=True), torch.rand(1, 6, requires_grad=True)
    rows = z.detach().repeat(4, 1).requires_grad_()
    for mine, other in zip(_gradients(_run(svf, x, z), x, z), _gradients(_run(svf, x, rows), x, rows), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("learned", [1.0, 1.003])
def test_bfloat16_loses_no_more_than_the_factors_lose(learned: float) -> None:
    svf, exact = _svf(64, 64, torch.bfloat16), _svf(64, 64)
    exact.us, exact.vh, exact.bias = (svf.us.double(), svf.vh.double(), svf.bias.double())  # type: ignore[union-attr]
    x, z = torch.randn(4, 64, 64).bfloat16().requires_grad_(), torch.full((1, 64), learned, requires_grad=True)
    wide, true_z = x.detach().double().requires_grad_(), z.detach().double().requires_grad_()
    rows = z.detach().repeat(4, 1).requires_grad_()
    out, factored, truth = _run(svf, x, z), _run(svf, x, rows), _run(exact, wide, true_z)
    assert out.dtype == torch.bfloat16
    assert _composed(out)
    found = (out, *_gradients(out, x, z))
    others = (factored, *_gradients(factored, x, rows))
    assert found[2].dtype == torch.float32
    for mine, other, right in zip(found, others, (truth, *_gradients(truth, wide, true_z)), strict=True):
        assert _error(mine, right) < 1.5 * _error(other, right)


def _error(found: Tensor, right: Tensor) -> float:
    return float((found.detach().double() - right.detach()).norm() / right.detach().norm())
