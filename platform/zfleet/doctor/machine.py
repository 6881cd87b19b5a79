"""What this machine has: torch, its devices and memory, and vLLM. Heavy imports wait until ``look``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from zfleet.engine.vllm_engine.version import check_vllm, installed_vllm
from zfleet.errors import EngineError, ZfleetError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_GIB = 2**30
_SHARED = ("torch", "transformers")
"""Dependencies of both engines whose version decides whether they run."""

_PROBE = """
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.platforms import current_platform
print(current_platform.device_type)
"""
_PROBE_SECONDS = 180.0
"""A probe that hangs must not keep the command from its report."""


@dataclass(frozen=True)
class Machine:
    """What decides here which engines run.

    Attributes:
        torch: Version of torch; empty if it cannot be imported.
        threads: Threads that torch computes with.
        gpus: Names of the CUDA devices that torch sees.
        free_gib: Memory that is available now.
        shared_problems: Problems that keep every engine from running.
        vllm: Package and version; empty if vLLM is not installed.
        vllm_device: The device that the installed build runs on here, as vLLM itself reports it; empty if none.
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


def look() -> Machine:
    """Look at this machine. Takes 10 to 30 seconds, because a process of its own imports vLLM."""
    import psutil

    problems = list(_out_of_range())
    torch_version, threads, gpus = "", 0, tuple[str, ...]()
    try:
        import torch

        torch_version, threads = str(torch.__version__), torch.get_num_threads()
        gpus = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    except ModuleNotFoundError as error:
        if error.name != "torch":
            problems.append(_unusable_torch(error))  # a missing torch is listed already
    except (ImportError, OSError) as error:
        problems.append(_unusable_torch(error))
    device, problem = _probe_vllm()
    return Machine(
        torch=torch_version,
        threads=threads,
        gpus=gpus,
        free_gib=psutil.virtual_memory().available / _GIB,
        shared_problems=tuple(problems),
        vllm=" ".join(installed_vllm() or ()),
        vllm_device=device,
        vllm_problem=problem,
    )


def _out_of_range() -> Iterator[ZfleetError]:
    """Problems of dependencies that are missing or of a version that zfleet does not support."""
    for requirement in _requirements():
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield EngineError(f"{requirement.name} is not installed", "`make install`")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            message = f"{requirement.name} {installed} is installed, zfleet needs {requirement.specifier}"
            yield EngineError(message, "`make install`")


def _requirements() -> list[Requirement]:
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in requires("zfleet") or ()]
    except PackageNotFoundError:  # zfleet runs from its sources, which state no versions
        requirements = [Requirement(name) for name in _SHARED]
    return [requirement for requirement in requirements if requirement.name in _SHARED]


def _unusable_torch(error: Exception) -> EngineError:
    return EngineError(f"torch cannot be imported: {error}", "`make clean install`")


def _probe_vllm() -> tuple[str, ZfleetError | None]:
    """Return the device that the installed vLLM runs on, and why it runs on none.

    Asks in another process, because importing vLLM changes the process that does it.
    """
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
