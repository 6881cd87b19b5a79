"""The engine's SVF linears, fused parts included, against merged weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from zfleet.engine.vllm_engine.linears.delta import DeltaLinear, spaced
from zfleet.engine.vllm_engine.linears.factored import FactoredLinear
from zfleet.engine.vllm_engine.linears.parts import PartFactors
from zfleet.svf.factors import MatrixFactors, decompose

few = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**20)
sizes_alike = st.builds(lambda size, count: [size] * count, st.integers(1, 9), st.integers(2, 3))
outputs = st.lists(st.integers(1, 9), min_size=1, max_size=3) | sizes_alike
inputs = st.integers(1, 9)
batches = st.integers(1, 6) | st.just(40)
"""Few tokens; and as many as go through W in halves, if the machine's threads are few."""


@dataclass
class Fused:
    """A fused linear [sum of sizes, n] whose parts have factors, but for those in ``without``."""

    weight: Tensor
    bias: Tensor
    parts: list[PartFactors]
    size: int

    def plain(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, self.weight, bias)

    def merged(self, z: Tensor) -> Tensor:
        weight = self.weight.clone()
        for part in self.parts:
            matrix = MatrixFactors(part.u, part.s, part.vh)
            weight[part.outputs] = matrix.merged(z[part.columns]).float()
        return weight

    def expected(self, x: Tensor, z: Tensor, bias: Tensor | None) -> Tensor:
        return torch.stack([functional.linear(row, self.merged(of), bias) for row, of in zip(x, z, strict=True)])


def fused(sizes: list[int], n: int, seed: int, without: int | None = None, offset: int = 3) -> Fused:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(sum(sizes), n, generator=generator)
    parts, column, row = [], offset, 0
    for place, size in enumerate(sizes):
        if place != without:
            matrix = decompose(weight[row : row + size], torch.float32)
            r = matrix.s.numel()
            columns, rows = slice(column, column + r), slice(row, row + size)
            parts.append(PartFactors(f"p{place}", matrix.u, matrix.s, matrix.vh, columns, rows))
            column += r
        row += size
    return Fused(weight, torch.randn(sum(sizes), generator=generator), parts, column + 2)


def batch(layer: Fused, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """x [T, n] and flat z [T, size]."""
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(tokens, layer.weight.shape[1], generator=generator)
    return x, 1 + 0.5 * torch.randn(tokens, layer.size, generator=generator)


@few
@given(outputs, inputs, batches, seeds, st.booleans())
def test_factored_rows_are_their_merged_linears(sizes: list[int], n: int, tokens: int, seed: int, biased: bool) -> None:
    layer = fused(sizes, n, seed)
    bias = layer.bias if biased else None
    x, z = batch(layer, tokens, seed)
    linear = FactoredLinear(layer.plain, sum(sizes), layer.parts, torch.float32)
    y = linear(x, z[:, linear.columns], bias)
    assert torch.allclose(y, layer.expected(x, z, bias), atol=1e-4, rtol=1e-4)
    assert y.is_contiguous()


@few
@given(st.sampled_from([[4, 2, 3], [3, 3, 3]]), inputs, batches, seeds, st.integers(0, 2), st.booleans())
def test_parts_without_factors_keep_their_weight(
    sizes: list[int], n: int, tokens: int, seed: int, without: int, biased: bool
) -> None:
    layer = fused(sizes, n, seed, without)
    bias = layer.bias if biased else None
    x, z = batch(layer, tokens, seed)
    factored = FactoredLinear(layer.plain, 9, layer.parts, torch.float32)
    assert torch.allclose(factored(x, z[:, factored.columns], bias), layer.expected(x, z, bias), atol=1e-4, rtol=1e-4)
    delta = DeltaLinear(layer.plain, layer.weight, layer.parts, 9)
    assert torch.allclose(delta(x, delta.rows_of(z), bias), layer.expected(x, z, bias), atol=1e-4, rtol=1e-4)


@few
@given(outputs, inputs, batches, seeds, st.integers(1, 9), st.data())
def test_delta_rows_are_linears_merged_with_the_chosen_directions(
    sizes: list[int], n: int, tokens: int, seed: int, k: int, data: st.DataObject
) -> None:
    layer = fused(sizes, n, seed)
    x, z = batch(layer, tokens, seed)
    linear = DeltaLinear(layer.plain, layer.weight, layer.parts, k)
    chosen, kept = {}, torch.ones_like(z)
    for part in layer.parts:
        r = part.s.numel()
        order = data.draw(st.permutations(range(r)))
        chosen[part.name] = torch.tensor(order[: min(k, r)])
        kept[:, part.columns][:, chosen[part.name]] = z[:, part.columns][:, chosen[part.name]]
    linear.set_directions(chosen)
    rows = linear.rows_of(z)
    assert rows.shape == (tokens, linear.width)
    assert torch.allclose(linear(x, rows, layer.bias), layer.expected(x, kept, layer.bias), atol=1e-4, rtol=1e-4)


def test_z_of_ones_adds_nothing_to_the_engines_own_result() -> None:
    layer = fused([6, 2, 2], 8, 0)
    x, _ = batch(layer, 5, 0)
    linear = DeltaLinear(layer.plain, layer.weight, layer.parts, 4)
    rows = linear.rows_of(torch.ones(5, layer.size))
    assert torch.equal(linear(x, rows, layer.bias), layer.plain(x, layer.bias))


@pytest.mark.parametrize("sizes", [[6, 2, 2], [4, 4]])
def test_parts_may_lie_in_another_order_in_a_flat_z(sizes: list[int]) -> None:
    layer = fused(sizes, 8, 0)
    first, last = layer.parts[0], layer.parts[-1]
    last = replace(last, columns=slice(0, last.s.numel()))
    layer.parts = [last] if len(sizes) == 3 else [replace(first, columns=slice(4, 8)), last]
    x, z = batch(layer, 5, 0)
    for order in (layer.parts, layer.parts[::-1]):
        linear = FactoredLinear(layer.plain, sum(sizes), order, torch.float32)
        assert torch.allclose(linear(x, z[:, linear.columns]), layer.expected(x, z, None), atol=1e-4)
        delta = DeltaLinear(layer.plain, layer.weight, order, 8)
        assert torch.allclose(delta(x, delta.rows_of(z)), layer.expected(x, z, None), atol=1e-4)


def test_parts_that_are_no_neighbours_in_a_flat_z_are_refused() -> None:
    layer = fused([6, 2, 2], 8, 0)
    with pytest.raises(ValueError, match="p0 and p2"):
        FactoredLinear(layer.plain, 10, [layer.parts[0], layer.parts[2]], torch.float32)


def test_inputs_may_be_a_view() -> None:
    layer = fused([6, 2], 8, 0)
    x, z = batch(layer, 5, 0)
    wide = torch.zeros(5, 20)
    wide[:, 7:15] = x
    factored = FactoredLinear(layer.plain, 8, layer.parts, torch.float32)
    assert torch.allclose(factored(wide[:, 7:15], z[:, factored.columns]), layer.expected(x, z, None), atol=1e-4)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("sizes", [[6, 6], [6, 2, 2], [8], [3, 2], [4, 4, 4]])
@pytest.mark.usefixtures("two_threads")
def test_as_many_tokens_as_there_are_give_the_same_delta(sizes: list[int]) -> None:
    layer = fused(sizes, 8, 0)
    x, z = batch(layer, 150, 0)
    linear = DeltaLinear(layer.plain, layer.weight, layer.parts, 3)
    linear.set_directions({part.name: torch.tensor([1, 0, 2])[: part.s.numel()] for part in layer.parts})
    rows = linear.rows_of(z)
    whole = linear(x, rows, layer.bias)
    for tokens in (1, 33, 64, 128, 129):
        y = linear(x[:tokens], rows[:tokens], layer.bias)
        assert y.is_contiguous()
        assert torch.allclose(y, whole[:tokens], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lines_of_a_spaced_weight_are_never_a_power_of_two_apart(dtype: torch.dtype) -> None:
    weight = torch.arange(2 * 3 * 8192 // dtype.itemsize).to(dtype).view(2, 3, -1)
    room = spaced(weight)
    assert torch.equal(room, weight)
    assert room.stride(1) * room.element_size() % 4096 == 64


def test_a_bfloat16_engine_computes_with_float32_rows() -> None:
    layer = fused([64, 64], 64, 0)
    x, _ = batch(layer, 5, 0)
    x = x.bfloat16()
    z = 1 + 0.003 * torch.ones(5, layer.size)
    linear = FactoredLinear(layer.plain, 128, layer.parts, torch.bfloat16)
    same, moved = (linear(x, rows[:, linear.columns]).float() for rows in (torch.ones_like(z), z))
    assert not torch.equal(same, moved), "a z this near to 1 is lost where rows are bfloat16"
