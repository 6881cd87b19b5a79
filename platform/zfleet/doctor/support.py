"""Which engines this machine can run, and why not the others: the conclusions from ``machine`` and ``base``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zfleet.config.specs import VllmSpec
from zfleet.doctor.base import BaseFacts
from zfleet.doctor.machine import Machine
from zfleet.errors import EngineError, ZfleetError


@dataclass(frozen=True)
class EngineSupport:
    """Whether one engine runs on one device.

    Attributes:
        engine: As a spec's ``engine`` names it.
        device: As a spec's ``base.device`` names it.
        runs: ``untested``: nothing speaks against it, and nobody has run it.
        reason: What it would run on, or why it does not run.
        remedy: What to do about it.
    """

    engine: Literal["torch", "vllm"]
    device: Literal["cpu", "cuda"]
    runs: Literal["yes", "no", "untested"]
    reason: str
    remedy: str = ""


def judge(machine: Machine, base: BaseFacts | None = None) -> list[EngineSupport]:
    """Judge every engine on every device, in the order of a spec's choices."""
    shared = list(machine.shared_problems)
    if base is not None and base.family_problem:
        shared.append(base.family_problem)
    vllm = [*shared, *([machine.vllm_problem] if machine.vllm_problem else [])]
    if base is not None and base.vllm_problem:
        vllm.append(base.vllm_problem)
    return [
        _torch_on_cpu(machine, base, shared),
        _torch_on_gpu(machine, base, shared),
        _vllm_on_cpu(machine, base, vllm),
        _vllm_on_gpu(machine, vllm),
    ]


def _torch_on_cpu(machine: Machine, base: BaseFacts | None, problems: Sequence[ZfleetError]) -> EngineSupport:
    # TorchEngine also keeps U as it was computed, beside U s.
    factors = 2 * base.sizes.u + base.sizes.vh if base else 0.0
    lacking = _lacking_memory(machine, base, factors, cache_gib=0.0)
    runs_on = f"torch {machine.torch}, {machine.threads} threads"
    return _support("torch", "cpu", [*problems, *lacking], runs_on, _window(base))


def _torch_on_gpu(machine: Machine, base: BaseFacts | None, problems: Sequence[ZfleetError]) -> EngineSupport:
    return _support("torch", "cuda", [*problems, *_no_gpu(machine)], ", ".join(machine.gpus), _window(base))


def _vllm_on_cpu(machine: Machine, base: BaseFacts | None, problems: Sequence[ZfleetError]) -> EngineSupport:
    problems = list(problems)
    if not machine.vllm_problem and machine.vllm_device != "cpu":
        problems.append(EngineError(f"{machine.vllm} is no build for CPUs", "`make vllm` in an environment without it"))
    if base is not None and base.head_problem:
        problems.append(base.head_problem)
    factors = base.sizes.u + base.sizes.vh if base else 0.0
    problems += _lacking_memory(machine, base, factors, VllmSpec().cache_gib)
    return _support("vllm", "cpu", problems, machine.vllm)


def _vllm_on_gpu(machine: Machine, problems: Sequence[ZfleetError]) -> EngineSupport:
    problems = [*problems, *_no_gpu(machine)]
    if machine.gpus and not machine.vllm_problem and machine.vllm_device != "cuda":
        remedy = "`pip install 'zfleet[vllm]'` in an environment of its own"
        problems.append(EngineError(f"{machine.vllm} is no build for GPUs", remedy))
    runs_on = f"{machine.vllm}, {', '.join(machine.gpus)}; zfleet's part was never run on a GPU"
    return _support("vllm", "cuda", problems, runs_on, "compare some answers with `engine: torch`", runs="untested")


def _support(
    engine: Literal["torch", "vllm"],
    device: Literal["cpu", "cuda"],
    problems: Sequence[ZfleetError],
    runs_on: str,
    hint: str = "",
    runs: Literal["yes", "untested"] = "yes",
) -> EngineSupport:
    if not problems:
        return EngineSupport(engine, device, runs, runs_on, hint)
    remedies = dict.fromkeys(problem.remedy for problem in problems)
    return EngineSupport(engine, device, "no", "; ".join(problem.message for problem in problems), "; ".join(remedies))


def _no_gpu(machine: Machine) -> list[ZfleetError]:
    if machine.gpus or not machine.torch:
        return []
    return [EngineError(f"torch {machine.torch} sees no GPU", "a machine with an NVIDIA GPU, and torch's build for it")]


def _lacking_memory(
    machine: Machine, base: BaseFacts | None, factors_gib: float, cache_gib: float
) -> list[ZfleetError]:
    """Compare free memory with an estimate of what stays in it; opening the engine and its steps take more."""
    parts = {"the weights": base.sizes.weights if base else 0.0, "their factors": factors_gib, "the cache": cache_gib}
    if machine.free_gib >= sum(parts.values()):
        return []
    needed = " + ".join(f"{gib:.1f} for {what}" for what, gib in parts.items() if gib)
    smaller = ["choose fewer base.targets"] if factors_gib else []
    smaller += ["set engine.vllm.cache_gib lower"] if cache_gib else []
    remedy = " or ".join(["free memory", *smaller])
    return [EngineError(f"{machine.free_gib:.1f} GiB of memory are free, it takes about {needed}", remedy)]


def _window(base: BaseFacts | None) -> str:
    # A limit, not a refusal: TorchEngine runs such a base on sequences that fit its window.
    return f"set engine.max_length to at most {base.window}, the attention window" if base and base.window else ""
