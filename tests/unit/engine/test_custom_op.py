"""The SVF operator: one compiled graph, and CUDA graphs that follow their buffers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional

from zfleet.engine.vllm_engine.linears.factored import FactoredLinear
from zfleet.engine.vllm_engine.linears.graph import GraphLinear
from zfleet.engine.vllm_engine.linears.parts import PartFactors
from zfleet.engine.vllm_engine.linears.step_rows import StepBuffers
from zfleet.svf.factors import decompose

SIZES, N, ROWS, TOKENS = [16, 8, 8], 16, 5, 12
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Block(nn.Module):
    """A fused linear, with something around it to compile."""

    def __init__(self, device: torch.device, *, bias: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(sum(SIZES), N, generator=generator)
        self.register_buffer("weight", weight.to(device))
        self.register_buffer("bias", torch.randn(sum(SIZES), generator=generator).to(device) if bias else None)
        self.parts: list[PartFactors] = []
        column = row = 0
        for place, size in enumerate(SIZES):
            matrix = decompose(weight[row : row + size], torch.float32)
            r = matrix.s.numel()
            factors = (matrix.u.to(device), matrix.s.to(device), matrix.vh.to(device))
            rows = slice(row, row + size)
            self.parts.append(PartFactors(f"p{place}", *factors, slice(column, column + r), rows))
            column, row = column + r, row + size
        self.z = StepBuffers(ROWS, column, TOKENS, device)
        self.linear = GraphLinear(self.plain, row, self.parts, self.z, torch.float32)
        self.fill(1)

    def plain(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, self.get_buffer("weight"), bias)

    def fill(self, seed: int) -> None:
        """Other rows, other tokens, in place."""
        generator = torch.Generator().manual_seed(seed)
        self.z.table.copy_(1 + torch.randn(self.z.table.shape, generator=generator))
        self.z.index.copy_(torch.randint(ROWS, (TOKENS,), generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        bias = self.bias
        assert bias is None or isinstance(bias, Tensor)
        out: Tensor = self.linear(x, bias).relu()
        return out

    def expected(self, x: Tensor) -> Tensor:
        """The same through the linear that takes gathered rows."""
        x, bias = x + 1, self.bias
        assert bias is None or isinstance(bias, Tensor)
        index = self.z.index[: len(x)]
        factored = FactoredLinear(self.plain, sum(SIZES), self.parts, torch.float32)
        return factored(x, self.z.table[index], bias).relu()


def _x(tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, N, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_the_operator_is_the_factored_linear(bias: bool) -> None:
    block = Block(torch.device("cpu"), bias=bias)
    x = _x(7)
    assert torch.allclose(block(x), block.expected(x), atol=1e-5)


@torch.no_grad()
def test_parts_without_factors_keep_their_weight() -> None:
    block = Block(torch.device("cpu"))
    linear = GraphLinear(block.plain, sum(SIZES), block.parts[1:2], block.z, torch.float32)
    x = _x(7)
    y, plain, part = linear(x), block.plain(x, None), block.parts[1]
    assert torch.equal(y[:, :16], plain[:, :16])
    assert torch.equal(y[:, 24:], plain[:, 24:])
    z = block.z.table[block.z.index[:7]][:, part.columns]
    expected = functional.linear(functional.linear(x, part.vh) * z, part.u * part.s)
    assert torch.allclose(y[:, part.outputs], expected, atol=1e-4)


def test_the_operator_keeps_its_promises_to_the_compiler() -> None:
    block = Block(torch.device("cpu"))
    linear = block.linear
    args = (torch.empty(4, 32), _x(4), linear.v, list(linear._us), [0, 16, 24])
    torch.library.opcheck(
        torch.ops.zfleet.svf_into.default,
        (*args, block.z.table, block.z.index, 0, None),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


@torch.no_grad()
def test_compiled_without_a_break_it_follows_buffers_and_batch_sizes() -> None:
    torch._dynamo.reset()
    block = Block(torch.device("cpu"))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=counter)
    for seed, tokens in enumerate([4, 7, 12]):
        block.fill(seed)
        x = _x(tokens, seed)
        assert torch.allclose(compiled(x), block.expected(x), atol=1e-5)
    assert counter.frame_count == 1


@cuda
@torch.no_grad()
def test_a_captured_graph_follows_its_buffers() -> None:
    torch._dynamo.reset()
    device = torch.device("cuda")
    block = Block(device)
    compiled = torch.compile(block, fullgraph=True)
    x = _x(TOKENS).to(device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            compiled(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = compiled(x)
    for seed in range(3):
        block.fill(seed)
        x.copy_(_x(TOKENS, seed))
        graph.replay()
        assert torch.allclose(y, block.expected(x), atol=1e-4)
