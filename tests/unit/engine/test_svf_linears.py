"""The engine's SVF linears, fused parts included, against merged weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from zfleet.engine.vllm_engine.linears.delta import DeltaLinear, cost, spaced
from zfleet.engine.vllm_engine.linears.factored import FactoredLinear
from zfleet.engine.vllm_engine.linears.parts import PartFactors
from zfleet.svf.factors import MatrixFactors, decompose

few = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**20)
sizes_alike = st.builds(lambda size, count: [size] * count, st.integers(1, 9), st.integers(2, 3))
outputs = st.lists(st.integers(1, 9), min_size=1, max_size=3) | sizes_alike
inputs = st.integers(1, 9)
batches = st.integers(1, 6) | st.just(40)


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
    delta, rows = in_directions(layer, z, everything(layer))
    assert torch.allclose(delta(x, rows, bias), layer.expected(x, z, bias), atol=1e-4, rtol=1e-4)


def everything(layer: Fused) -> list[Tensor]:
    return [torch.arange(part.s.numel()) for part in layer.parts]


def in_directions(layer: Fused, z: Tensor, chosen: list[Tensor]) -> tuple[DeltaLinear, Tensor]:
    """The linear with some directions of each part, and the rows of these z."""
    places = [part.columns.start + own for part, own in zip(layer.parts, chosen, strict=True)]
    return DeltaLinear(layer.plain, layer.parts, chosen, torch.float32), z[:, torch.cat(places)] - 1


@few
@given(outputs, inputs, batches, seeds, st.booleans(), st.data())
def test_delta_rows_are_linears_merged_with_the_chosen_directions(
    sizes: list[int], n: int, tokens: int, seed: int, split: bool, data: st.DataObject
) -> None:
    """Also where a rank holds only some outputs of a matrix, and must compute the change from the inputs."""
    layer = fused(sizes, n, seed)
    layer.parts = [replace(part, all_outputs=not split) for part in layer.parts]
    x, z = batch(layer, tokens, seed)
    chosen, kept = [], torch.ones_like(z)
    for part in layer.parts:
        r = part.s.numel()
        chosen.append(torch.tensor(data.draw(st.permutations(range(r)))[: data.draw(st.integers(0, r))]).long())
        kept[:, part.columns][:, chosen[-1]] = z[:, part.columns][:, chosen[-1]]
    linear, rows = in_directions(layer, z, chosen)
    assert rows.shape == (tokens, linear.width)
    y = linear(x, rows, layer.bias)
    assert torch.allclose(y, layer.expected(x, kept, layer.bias), atol=1e-4, rtol=1e-4)
    assert y.is_contiguous()


@pytest.mark.parametrize("all_outputs", [True, False])
def test_ranks_that_hold_some_inputs_each_add_up_to_the_change(all_outputs: bool) -> None:
    """The change of a sum is the sum of the changes, whether it is computed from outputs or from inputs."""
    layer = fused([6], 8, 0)
    x, z = batch(layer, 5, 0)
    (part,) = layer.parts
    total = torch.zeros(5, 6)
    for own in (slice(0, 3), slice(3, 8)):
        weight = layer.weight[:, own]

        def plain(x: Tensor, bias: Tensor | None, weight: Tensor = weight) -> Tensor:
            return functional.linear(x, weight, bias)

        share = replace(part, vh=part.vh[:, own], all_outputs=all_outputs)
        linear = DeltaLinear(plain, [share], [torch.tensor([0, 4])], torch.float32)
        total += linear(x[:, own], z[:, part.columns][:, [0, 4]] - 1)
    kept = torch.ones_like(z)
    kept[:, part.columns][:, [0, 4]] = z[:, part.columns][:, [0, 4]]
    assert torch.allclose(total, layer.expected(x, kept, None), atol=1e-4)


def test_z_of_ones_adds_nothing_to_the_engines_own_result() -> None:
    layer = fused([6, 2, 2], 8, 0)
    x, _ = batch(layer, 5, 0)
    linear, rows = in_directions(layer, torch.ones(5, layer.size), everything(layer))
    assert torch.equal(linear(x, rows, None), layer.plain(x, None))


@pytest.mark.parametrize("of_outputs", [True, False])
def test_a_change_costs_what_its_cheaper_side_does(of_outputs: bool) -> None:
    layer = fused([6 if of_outputs else 9], 8, 0)
    (part,) = layer.parts
    assert cost(part, 3) == 3 * (2 * 6 if of_outputs else 9 + 8)
    assert cost(replace(part, all_outputs=False), 3) == 3 * (len(layer.weight) + 8)


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
        delta, rows = in_directions(replace(layer, parts=order), z, everything(replace(layer, parts=order)))
        assert torch.allclose(delta(x, rows), layer.expected(x, z, None), atol=1e-4)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lines_of_a_spaced_weight_are_never_a_power_of_two_apart(dtype: torch.dtype) -> None:
    weight = torch.arange(3 * 8192 // dtype.itemsize).to(dtype).view(3, -1)
    room = spaced(weight)
    assert torch.equal(room, weight)
    assert room.stride(0) * room.element_size() % 4096 == 64


def test_a_bfloat16_engine_computes_with_float32_rows() -> None:
    layer = fused([64, 64], 64, 0)
    x, _ = batch(layer, 5, 0)
    x = x.bfloat16()
    z = 1 + 0.003 * torch.ones(5, layer.size)
    linear = FactoredLinear(layer.plain, 128, layer.parts, torch.bfloat16)
    same, moved = (linear(x, rows[:, linear.columns]).float() for rows in (torch.ones_like(z), z))
    assert not torch.equal(same, moved), "a z this near to 1 is lost where rows are bfloat16"
