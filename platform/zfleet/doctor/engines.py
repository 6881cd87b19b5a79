"""Which engines this machine can run, and why not the others.

``look`` and ``read_base`` find facts, ``judge`` draws the conclusions. Heavy imports wait until they look.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zfleet.config.specs import BaseSpec, VllmSpec
from zfleet.engine.vllm_engine.version import check_vllm, installed_vllm
from zfleet.errors import BaseModelError, EngineError, SpecError, ZfleetError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from zfleet.doctor.base_sizes import BaseSizes

_GIB = 2**30
_SHARED = ("torch", "transformers")
"""Dependencies of both engines whose version decides whether they run."""

_PROBE = """
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.platforms import current_platform
print(current_platform.device_type)
"""
_PROBE_SECONDS = 180.0
"""What hangs would keep the command from saying anything."""


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
        sizes: Of its weights and factors.
        window: The last tokens that it attends to, where those are fewer than its context.
        family_problem: Why no engine runs it.
        vllm_problem: Why vLLM does not run it anywhere.
        head_problem: Why vLLM does not run it on a CPU.
    """

    name: str
    sizes: BaseSizes
    window: int | None = None
    family_problem: BaseModelError | None = None
    vllm_problem: EngineError | None = None
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
    except ModuleNotFoundError as error:
        if error.name != "torch":
            problems.append(_unusable_torch(error))  # else it is among them
    except (ImportError, OSError) as error:
        problems.append(_unusable_torch(error))
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
        BaseModelError: The folder holds no model that can be read, or what reads it is not installed.
    """
    if source != "lab" and not Path(source).expanduser().is_dir():
        raise SpecError(f"base {source!r} is no folder", "give `lab` or a Hugging Face model folder")
    try:
        from transformers import AutoConfig

        from zfleet.doctor.base_sizes import read_sizes
        from zfleet.models.bundle import locate_base
        from zfleet.models.families import check_family, check_no_images, check_vllm_head_size
        from zfleet.models.fingerprint import read_config
    except ImportError as error:
        raise BaseModelError(
            f"base {source!r} cannot be read: {error}", "`zfleet doctor` without a base says what is missing"
        ) from error

    name, folder = locate_base(BaseSpec(model=source))
    sizes = read_sizes(folder)
    written = read_config(folder)
    try:
        check_family(written, name)
    except BaseModelError as problem:
        return BaseFacts(name, sizes, family_problem=problem)
    try:
        config = AutoConfig.from_pretrained(folder).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"{folder}/config.json: {error}", "give a Hugging Face model folder") from error
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window >= config.max_position_embeddings:
        window = None
    try:
        check_no_images(written, name)
    except EngineError as problem:
        return BaseFacts(name, sizes, window, vllm_problem=problem)
    try:
        check_vllm_head_size(config, name)
    except EngineError as problem:
        return BaseFacts(name, sizes, window, head_problem=problem)
    return BaseFacts(name, sizes, window)


def judge(machine: Machine, base: BaseFacts | None = None) -> list[Verdict]:
    """Every engine on every device, in the order of a spec's choices."""
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


def _torch_on_cpu(machine: Machine, base: BaseFacts | None, problems: Sequence[ZfleetError]) -> Verdict:
    # TorchEngine also keeps U as it was computed, beside U s.
    factors = 2 * base.sizes.u + base.sizes.vh if base else 0.0
    lacking = _lacking_memory(machine, base, factors, cache_gib=0.0)
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
    factors = base.sizes.u + base.sizes.vh if base else 0.0
    problems += _lacking_memory(machine, base, factors, VllmSpec().cache_gib)
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


def _lacking_memory(
    machine: Machine, base: BaseFacts | None, factors_gib: float, cache_gib: float
) -> list[ZfleetError]:
    """An estimate of what stays in memory; what opening the engine and a step of it take besides is not in it."""
    parts = {"the weights": base.sizes.weights if base else 0.0, "their factors": factors_gib, "the cache": cache_gib}
    if machine.free_gib >= sum(parts.values()):
        return []
    wanted = " + ".join(f"{gib:.1f} for {what}" for what, gib in parts.items() if gib)
    smaller = ["choose fewer base.targets"] if factors_gib else []
    smaller += ["set engine.vllm.cache_gib lower"] if cache_gib else []
    remedy = " or ".join(["free memory", *smaller])
    return [EngineError(f"{machine.free_gib:.1f} GiB of memory are free, it takes about {wanted}", remedy)]


def _window(base: BaseFacts | None) -> str:
    # A limit, not a refusal: TorchEngine runs such a base on sequences that fit its window.
    return f"set engine.max_length to at most {base.window}, the attention window" if base and base.window else ""


def _out_of_range() -> list[ZfleetError]:
    problems: list[ZfleetError] = []
    for needed in _wanted():
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            problems.append(EngineError(f"{needed.name} is not installed", "`make install`"))
            continue
        if not needed.specifier.contains(found, prereleases=True):
            message = f"{needed.name} {found} is installed, zfleet needs {needed.specifier}"
            problems.append(EngineError(message, "`make install`"))
    return problems


def _wanted() -> list[Requirement]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("zfleet") or ()]
    except PackageNotFoundError:  # run from its sources, which do not say which versions
        wanted = [Requirement(name) for name in _SHARED]
    return [needed for needed in wanted if needed.name in _SHARED]


def _unusable_torch(error: Exception) -> EngineError:
    return EngineError(f"torch cannot be imported: {error}", "`make clean install`")


def _probe_vllm() -> tuple[str, ZfleetError | None]:
    """What the installed vLLM runs on, and why it does not; in another process, because importing it sets up much."""
    try:
        check_vllm()
    except EngineError as problem:
        return "", problem
    quiet = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False, timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return "", EngineError(f"importing vLLM did not end in {_PROBE_SECONDS:g} s", "`make clean vllm`")
    if done.returncode == 0:
        return (done.stdout.split() or [""])[-1], None
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return "", EngineError(f"vLLM cannot be imported: {reason}", "`make clean vllm`")
