"""The environment that engines' processes start in, which processes they are, and what memory they hold."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

_INTEL_OPENMP = Path(sys.prefix, "lib", "libiomp5.so")
"""Comes with vLLM's CPU build."""


def preload_openmp() -> None:
    """Start this program again with Intel's OpenMP loaded first, if it is there and not yet loaded.

    vLLM wants it so on a CPU (its workers warn without it): GNU's threads wait in tight loops, which costs dearly where
    an engine's threads and its other processes share few cores. Every process of every side inherits it.
    """
    loaded = os.environ.get("LD_PRELOAD", "")
    if _INTEL_OPENMP.is_file() and _INTEL_OPENMP.name not in loaded:
        os.environ["LD_PRELOAD"] = f"{_INTEL_OPENMP} {loaded}".strip()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def openmp() -> str:
    """Which OpenMP the engines' threads use."""
    return "intel" if _INTEL_OPENMP.name in os.environ.get("LD_PRELOAD", "") else "torch's own"


def prepare_environment(threads: int, profile: bool) -> None:
    """Set what vLLM reads once, when it is imported; every process of every side inherits it.

    Args:
        threads: Of each engine's worker.
        profile: Allow functions to be sent to workers.
    """
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Logs of engine processes would land between the lines of the report.
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if profile:
        os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    # It would overrule the cache size that each engine is opened with.
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)


def children() -> set[int]:
    """Ids of all processes below this one."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def memory_mib(processes: tuple[int, ...]) -> float:
    """Memory of some processes, what they share divided among its users (PSS), in MiB."""
    return sum(psutil.Process(pid).memory_full_info().pss for pid in processes) / 2**20
