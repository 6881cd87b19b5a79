"""Where the time of a decoding step goes, by torch's profiler inside the worker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from hetero.client import Server
from hetero.configurations import CONFIGURATIONS
from hetero.settings import Settings

PROFILED = ("base", "exact64", "mlp64", "rank64", "lora64")

BETWEEN = "between operators"
"""Python in the worker, the scheduler, processes that wait for each other, the client."""

_OTHER = "other operators"
_LORA = "LoRA: gathered, multiplied"
_OF_LORA = ("aten::index", "aten::bmm")
_PARTS = {
    "linears, of the base and of factors": ("_C::onednn_mm", "aten::mm", "aten::bmm", "aten::addmm", "aten::addmm_"),
    "z: gathered, multiplied": ("aten::index_select", "aten::mul_"),
    "attention": ("_C::cpu_attention_with_kv_cache", "_C::cpu_attn_reshape_and_cache"),
    "norms, activations, residuals": ("aten::mul", "aten::silu", "aten::add", "aten::pow", "aten::mean"),
}
_STEPS = 32
"""Decoding steps that are profiled; the profiler holds every operator of each in memory until the end."""

_PROMPT = 4
"""Tokens of a profiled prompt, so that almost all steps decode."""


@dataclass(frozen=True)
class Profile:
    """One decoding step of a full batch, on average.

    Attributes:
        plain_ms: A step without the profiler, which slows every operator.
        step_ms: A step with it.
        operators: {operator and the shapes of its inputs: its own milliseconds in a step}, the slowest first.
        parts: {what for: milliseconds}; together ``step_ms``.
    """

    plain_ms: float
    step_ms: float
    operators: dict[str, float]
    parts: dict[str, float]


async def profile(server: Server, key: str, settings: Settings) -> Profile:
    """Profile a server with as many requests as run at once."""
    short = replace(settings.load, prompt_tokens=_PROMPT, answer_tokens=_STEPS)
    load = replace(settings, load=short, requests=short.concurrency)
    asks = CONFIGURATIONS[key].asks
    plain = await server.sample(asks(load, "profile", 0), short, stream=False)
    await server.call(_begin)
    profiled = await server.sample(asks(load, "profile", 1), short, stream=False)
    spent: list[tuple[str, str, float]] = await server.call(_end)
    steps, lora = short.answer_tokens, CONFIGURATIONS[key].side.startswith("lora")
    step_ms = profiled.seconds * 1e3 / steps
    parts = dict.fromkeys([*_PARTS, _LORA, _OTHER, BETWEEN], 0.0)
    operators: dict[str, float] = {}
    for operator, shapes, microseconds in spent:
        milliseconds = microseconds / 1e3 / steps
        operators[f"{operator} {shapes}"] = milliseconds
        parts[_part(operator, lora)] += milliseconds
    parts[BETWEEN] = step_ms - sum(parts.values())
    slowest = dict(sorted(operators.items(), key=lambda item: -item[1]))
    return Profile(plain.seconds * 1e3 / steps, step_ms, slowest, parts)


def _part(operator: str, lora: bool) -> str:
    if lora and operator in _OF_LORA:
        return _LORA
    return next((part for part, operators in _PARTS.items() if operator in operators), _OTHER)


def _begin(worker: Any) -> None:
    """Runs in the worker."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True)
    profiler.start()
    worker.benchmark_profiler = profiler


def _end(worker: Any) -> list[tuple[str, str, float]]:
    """Runs in the worker: operator, shapes of its inputs that have any, its own microseconds."""
    worker.benchmark_profiler.stop()
    events = worker.benchmark_profiler.key_averages(group_by_input_shape=True)
    return [(event.key, _shapes(event.input_shapes), event.self_cpu_time_total) for event in events]


def _shapes(shapes: list[list[int]]) -> str:
    return " ".join("x".join(map(str, shape)) for shape in shapes if shape)
