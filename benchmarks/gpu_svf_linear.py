"""What an SVF linear costs beside the plain one, at the shapes of one Llama-3-8B layer.

    python benchmarks/gpu_svf_linear.py                         on a GPU: bfloat16, M = 1 to 512 tokens
    python benchmarks/gpu_svf_linear.py --small --device cpu    does it run: an eighth of the width, float32
    python benchmarks/gpu_svf_linear.py --json > result.json

Every token has its own row of 65. Forms: plain (W), factored (exact), delta (rank k), and lora: y = x W^T plus
gathered (x A_i) B_i, rank 16, in torch, with as many adapters. On a GPU each form is compiled with
``fullgraph=True``, captured as a CUDA graph, checked against the same form run plainly after the table and the index
changed in place, and timed by events on replays; on a CPU it is run as it is. Rounds are interleaved, the figures are
medians; ratios are of pairs in the same round.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from exit_code import exit_code
from zfleet.engine.vllm_engine.linears.graph import GraphLinear
from zfleet.engine.vllm_engine.linears.parts import PartFactors
from zfleet.engine.vllm_engine.linears.step_rows import StepBuffers
from zfleet.errors import EngineError

LORA_RANK = 16


@dataclass(frozen=True)
class Shape:
    """A fused linear: the outputs of its parts, and its inputs."""

    name: str
    sizes: tuple[int, ...]
    inputs: int


def shapes(hidden: int, middle: int, keys: int) -> list[Shape]:
    """The four linears of a Llama layer as vLLM fuses them."""
    return [
        Shape("qkv", (hidden, keys, keys), hidden),
        Shape("o", (hidden,), hidden),
        Shape("gate_up", (middle, middle), hidden),
        Shape("down", (hidden,), middle),
    ]


class Lora(nn.Module):
    """y = x W^T + (x A_i) B_i with the adapter i of each token: what a batched LoRA kernel computes."""

    def __init__(self, plain: nn.Module, shape: Shape, step: StepBuffers, rows: int, dtype: torch.dtype) -> None:
        super().__init__()
        device = step.index.device
        self._plain, self._step = plain, step
        self.register_buffer("a", torch.randn(rows, shape.inputs, LORA_RANK, dtype=dtype, device=device) / 64)
        self.register_buffer("b", torch.randn(rows, LORA_RANK, sum(shape.sizes), dtype=dtype, device=device) / 64)

    def forward(self, x: Tensor) -> Tensor:
        """[T, n] to [T, m]."""
        index = self._step.index[: x.shape[0]]
        h = torch.bmm(x.unsqueeze(1), self.get_buffer("a")[index])
        y: Tensor = torch.baddbmm(self._plain(x).unsqueeze(1), h, self.get_buffer("b")[index]).squeeze(1)
        return y


class Delta(nn.Module):
    """y = x W^T + ((x V_k) * d) U_k^T: what a rank-k form would cost on a GPU."""

    def __init__(
        self, plain: nn.Module, parts: Sequence[PartFactors], k: int, step: StepBuffers, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._plain, self._step, self._sizes = plain, step, [len(part.u) for part in parts]
        self.register_buffer("v", torch.cat([part.vh[:k] for part in parts]).to(dtype))
        us = [part.u[:, :k].t().to(dtype).contiguous() for part in parts]
        self._us = nn.ParameterList(nn.Parameter(u, requires_grad=False) for u in us)

    def forward(self, x: Tensor) -> Tensor:
        """[T, n] to [T, m]."""
        y: Tensor = self._plain(x)
        rows = self._step.table.index_select(0, self._step.index[: x.shape[0]])
        h = functional.linear(x, self.get_buffer("v")).mul_(rows)
        widths = [u.shape[0] for u in self._us]
        for out, part, u in zip(y.split(self._sizes, 1), h.split(widths, 1), self._us, strict=True):
            out.addmm_(part, u)
        return y


class Plain(nn.Module):
    """y = x W^T."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """[T, n] to [T, m]."""
        y: Tensor = functional.linear(x, self.get_buffer("weight"))
        return y


@dataclass(frozen=True)
class Case:
    """All forms of one linear, over buffers of their own."""

    forms: dict[str, nn.Module]
    z: StepBuffers
    d: StepBuffers

    def fill(self) -> None:
        """Other rows and other tokens' rows, in place."""
        self.z.table.copy_(1 + 0.1 * torch.randn_like(self.z.table))
        self.d.table.copy_(0.1 * torch.randn_like(self.d.table))
        for step in (self.z, self.d):
            step.index.copy_(torch.randint(len(step.table), step.index.shape, device=step.index.device))


def build(shape: Shape, tokens: int, k: int, rows: int, device: torch.device, dtype: torch.dtype) -> Case:
    """The forms of a linear on factors of the right sizes: random, for time does not depend on the numbers."""

    def random(*size: int) -> Tensor:
        return torch.randn(*size, device=device) / math.sqrt(size[-1])

    parts: list[PartFactors] = []
    column = row = 0
    for size in shape.sizes:
        r = min(size, shape.inputs)
        factors = (random(size, r), torch.rand(r, device=device) + 0.5, random(r, shape.inputs))
        parts.append(PartFactors("part", *factors, slice(column, column + r), slice(row, row + size)))
        column, row = column + r, row + size
    z = StepBuffers(rows, column, tokens, device)
    d = StepBuffers(rows, sum(min(k, part.s.numel()) for part in parts), tokens, device)
    plain = Plain(random(row, shape.inputs).to(dtype))

    def linear(x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = plain(x)
        return y

    forms: dict[str, nn.Module] = {
        "plain": plain,
        "factored": GraphLinear(linear, row, parts, z, dtype),
        "delta": Delta(plain, parts, k, d, dtype),
        "lora": Lora(plain, shape, z, rows, dtype),
    }
    return Case(forms, z, d)


def captured(form: nn.Module, x: Tensor, case: Case) -> Callable[[], object]:
    """The form compiled into one graph and captured; refuses one that does not follow its buffers."""
    compiled = torch.compile(form, fullgraph=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            compiled(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = compiled(x)
    case.fill()
    graph.replay()
    torch.testing.assert_close(y, form(x), rtol=0.05, atol=0.05)
    return graph.replay


def seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Time of one run: events on a GPU, the clock on a CPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - start) / repeats
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / repeats


@torch.no_grad()
def measure(shape: Shape, tokens: int, options: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """One row of the table."""
    dtype = getattr(torch, options.dtype)
    case = build(shape, tokens, options.k, options.rows, device, dtype)
    x = torch.randn(tokens, shape.inputs, device=device).to(dtype)
    case.fill()
    runs: dict[str, Callable[[], object]] = {}
    for name, form in case.forms.items():
        runs[name] = captured(form, x, case) if device.type == "cuda" else partial(form, x)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, device, options.repeats))
    plain = times["plain"]
    ratios = {
        name: statistics.median(t / p for t, p in zip(values, plain, strict=True)) for name, values in times.items()
    }
    micros = {name: statistics.median(values) * 1e6 for name, values in times.items()}
    return {"linear": shape.name, "tokens": tokens, "microseconds": micros, "over_plain": ratios}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where the device is not there."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineError("no CUDA device is here", "--small --device cpu tries the script")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    torch.manual_seed(0)
    layer = shapes(512, 1792, 128) if options.small else shapes(4096, 14336, 1024)
    print(f"device: {where}; {options.dtype}; rank {options.k}; {options.rows} rows", file=sys.stderr)
    results = [measure(shape, tokens, options, device) for tokens in options.tokens for shape in layer]
    if options.json:
        settings = {"device": where, "dtype": options.dtype, "k": options.k, "torch": torch.__version__}
        print(json.dumps({**settings, "results": results}, indent=1))
        return
    print("| linear | tokens | plain, µs | factored | delta | LoRA |\n|---|---|---|---|---|---|")
    for result in results:
        micros, ratios = result["microseconds"], result["over_plain"]
        assert isinstance(micros, dict)
        assert isinstance(ratios, dict)
        cells = " | ".join(f"{ratios[form]:.2f}" for form in ("factored", "delta", "lora"))
        print(f"| {result['linear']} | {result['tokens']} | {micros['plain']:.1f} | {cells} |")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16" if cuda else "float32")
    parser.add_argument("--small", action="store_true", help="an eighth of the width")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 64, 128, 512], metavar="M")
    parser.add_argument("-k", type=int, default=64, help="directions of the delta form")
    parser.add_argument("--rows", type=int, default=65, help="of the table, and adapters of LoRA")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=20, help="runs in one timing")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
