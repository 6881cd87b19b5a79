"""Which engines this machine can run, and why not the others.

``look`` and ``read_base`` find facts, ``judge`` draws the conclusions. Heavy imports wait until they look.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Literal

from zfleet.config.specs import BaseSpec, VllmSpec
from zfleet.engine.vllm_version import check_vllm, installed_vllm
from zfleet.errors import BaseModelError, EngineError, SpecError, ZfleetError

_GIB = 2**30
_FLOAT32_BYTES = 4
_SHARED = ("torch", "transformers")
"""Dependencies of both engines whose version decides whether they run."""

_PROBE = """
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.platforms import current_platform
print(current_platform.device_type)
"""


@dataclass(frozen=True)
class Verdict:
    """One engine on one device.

    Attributes:
        engine: As a spec's ``engine`` names it.
        device: As a spec's ``base.device`` names it.
        runs: ``untested``: nothing speaks against it, and nobody has run it.
        found: What it would run on, or why it does not run.
        remedy: What to do about it.
    """

    engine: Literal["torch", "vllm"]
    device: Literal["cpu", "cuda"]
    runs: Literal["yes", "no", "untested"]
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Machine:
    """What was found on this machine.

    Attributes:
        torch: Its version, empty where it cannot be imported.
        threads: That torch computes with.
        gpus: Names of CUDA devices that torch sees.
        free_gib: Memory that is available now.
        shared_problems: What keeps every engine from running.
        vllm: Package and version.
        vllm_device: What the installed build runs on here, as vLLM itself says; empty for nothing.
        vllm_problem: Why vLLM cannot be used on any device.
    """

    torch: str
    threads: int
    gpus: tuple[str, ...]
    free_gib: float
    shared_problems: tuple[ZfleetError, ...] = ()
    vllm: str = ""
    vllm_device: str = ""
    vllm_problem: ZfleetError | None = None


@dataclass(frozen=True)
class BaseFacts:
    """What a base asks of an engine.

    Attributes:
        name: What people call it.
        gib: Its weights in float32.
        window: The last tokens that it attends to, where those are fewer than its context.
        family_problem: Why no engine runs it.
        head_problem: Why vLLM does not run it on a CPU.
    """

    name: str
    gib: float
    window: int | None = None
    family_problem: BaseModelError | None = None
    head_problem: EngineError | None = None


def look() -> Machine:
    """Find out about this machine; importing vLLM, in a process of its own, takes 10 to 30 seconds."""
    import psutil

    problems = list(_out_of_range())
    name, threads, gpus = "", 0, tuple[str, ...]()
    try:
        import torch

        name, threads = str(torch.__version__), torch.get_num_threads()
        gpus = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    except (ImportError, OSError) as error:
        problems.append(EngineError(f"torch cannot be imported: {error}", "`make clean install`"))
    device, problem = _probe_vllm()
    return Machine(
        torch=name,
        threads=threads,
        gpus=gpus,
        free_gib=psutil.virtual_memory().available / _GIB,
        shared_problems=tuple(problems),
        vllm=" ".join(installed_vllm() or ()),
        vllm_device=device,
        vllm_problem=problem,
    )


def read_base(source: str) -> BaseFacts:
    """What a base asks for.

    Args:
        source: ``lab``, which is built where it is not cached, or a Hugging Face folder.

    Raises:
        SpecError: Neither of them.
        BaseModelError: The folder holds no model that can be read.
    """
    if source != "lab" and not Path(source).expanduser().is_dir():
        raise SpecError(f"base {source!r} is no folder", "give `lab` or a Hugging Face model folder")
    from transformers import AutoConfig

    from zfleet.models.bundle import locate_base
    from zfleet.models.families import check_family, check_vllm_head_size
    from zfleet.models.fingerprint import read_config

    name, folder = locate_base(BaseSpec(model=source))
    gib = _parameters(folder) * _FLOAT32_BYTES / _GIB
    try:
        check_family(read_config(folder).get("model_type"), name)
    except BaseModelError as problem:
        return BaseFacts(name, gib, family_problem=problem)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"{folder}/config.json: {error}", "give a Hugging Face model folder") from error
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window >= config.max_position_embeddings:
        window = None
    try:
        check_vllm_head_size(config, name)
    except EngineError as problem:
        return BaseFacts(name, gib, window, head_problem=problem)
    return BaseFacts(name, gib, window)


def judge(machine: Machine, base: BaseFacts | None = None) -> list[Verdict]:
    """Every engine on every device, in the order of a spec's choices."""
    shared = list(machine.shared_problems)
    if base is not None and base.family_problem:
        shared.append(base.family_problem)
    vllm = [*shared, machine.vllm_problem] if machine.vllm_problem else shared
    return [
        _torch_on_cpu(machine, base, shared),
        _torch_on_gpu(machine, base, shared),
        _vllm_on_cpu(machine, base, vllm),
        _vllm_on_gpu(machine, vllm),
    ]


def _torch_on_cpu(machine: Machine, base: BaseFacts | None, problems: Sequence[ZfleetError]) -> Verdict:
    lacking = _lacking_memory(machine, base, cache_gib=0.0)
    found = f"torch {machine.torch}, {machine.threads} threads"
    return _verdict("torch", "cpu", [*problems, *lacking], found, _window(base))


def _torch_on_gpu(machine: Machine, base: BaseFacts | None, problems: Sequence[ZfleetError]) -> Verdict:
    return _verdict("torch", "cuda", [*problems, *_no_gpu(machine)], ", ".join(machine.gpus), _window(base))


def _vllm_on_cpu(machine: Machine, base: BaseFacts | None, problems: Sequence[ZfleetError]) -> Verdict:
    problems = list(problems)
    if not machine.vllm_problem and machine.vllm_device != "cpu":
        problems.append(EngineError(f"{machine.vllm} is no build for CPUs", "`make vllm` in an environment without it"))
    if base is not None and base.head_problem:
        problems.append(base.head_problem)
    problems += _lacking_memory(machine, base, VllmSpec().cache_gib)
    return _verdict("vllm", "cpu", problems, machine.vllm)


def _vllm_on_gpu(machine: Machine, problems: Sequence[ZfleetError]) -> Verdict:
    problems = [*problems, *_no_gpu(machine)]
    if machine.gpus and not machine.vllm_problem and machine.vllm_device != "cuda":
        remedy = "`pip install 'zfleet[vllm]'` in an environment of its own"
        problems.append(EngineError(f"{machine.vllm} is no build for GPUs", remedy))
    found = f"{machine.vllm}, {', '.join(machine.gpus)}; zfleet's part was never run on a GPU"
    return _verdict("vllm", "cuda", problems, found, "compare some answers with `engine: torch`", runs="untested")


def _verdict(
    engine: Literal["torch", "vllm"],
    device: Literal["cpu", "cuda"],
    problems: Sequence[ZfleetError],
    found: str,
    hint: str = "",
    runs: Literal["yes", "untested"] = "yes",
) -> Verdict:
    if not problems:
        return Verdict(engine, device, runs, found, hint)
    remedies = dict.fromkeys(problem.remedy for problem in problems)
    return Verdict(engine, device, "no", "; ".join(problem.message for problem in problems), "; ".join(remedies))


def _no_gpu(machine: Machine) -> list[ZfleetError]:
    if machine.gpus or not machine.torch:
        return []
    return [EngineError(f"torch {machine.torch} sees no GPU", "a machine with an NVIDIA GPU, and torch's build for it")]


def _lacking_memory(machine: Machine, base: BaseFacts | None, cache_gib: float) -> list[ZfleetError]:
    weights = base.gib if base else 0.0
    if machine.free_gib >= weights + cache_gib:
        return []
    parts = [f"{weights:.1f} for the weights"] * bool(base) + [f"{cache_gib:.1f} for the cache"] * bool(cache_gib)
    smaller = ["set engine.vllm.cache_gib lower"] if cache_gib else []
    remedy = " or ".join(["free memory", *smaller])
    return [EngineError(f"{machine.free_gib:.1f} GiB of memory are free, it takes {' and '.join(parts)}", remedy)]


def _window(base: BaseFacts | None) -> str:
    # A limit, not a refusal: TorchEngine runs such a base on sequences that fit its window.
    return f"set engine.max_length to at most {base.window}, the attention window" if base and base.window else ""


def _out_of_range() -> list[ZfleetError]:
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in requires("zfleet") or ()]
    return [
        EngineError(
            f"{needed.name} {version(needed.name)} is installed, zfleet needs {needed.specifier}", "`make install`"
        )
        for needed in wanted
        if needed.name in _SHARED and not needed.specifier.contains(version(needed.name), prereleases=True)
    ]


def _probe_vllm() -> tuple[str, ZfleetError | None]:
    """What the installed vLLM runs on, and why it does not; in another process, because importing it sets up much."""
    try:
        check_vllm()
    except EngineError as problem:
        return "", problem
    quiet = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run([sys.executable, "-c", _PROBE], env=quiet, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return (done.stdout.split() or [""])[-1], None
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return "", EngineError(f"vLLM cannot be imported: {reason}", "`make clean vllm`")


def _parameters(folder: Path) -> int:
    from math import prod

    from safetensors import SafetensorError, safe_open

    from zfleet.models.fingerprint import weight_files

    count = 0
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as tensors:
                count += sum(prod(part.get_shape()) for part in map(tensors.get_slice, tensors.keys()))
        except (SafetensorError, OSError) as error:
            raise BaseModelError(f"{file} is truncated or damaged: {error}", "fetch the base again") from error
    return count
