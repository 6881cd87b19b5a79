"""The environment that engines' processes start in, which processes they are, and what memory they hold."""

from __future__ import annotations

import os

import psutil

from zfleet.engine.vllm_engine.environment import cpu_environment


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
    os.environ |= cpu_environment()
    # It would overrule the cache size that each engine is opened with.
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)


def children() -> set[int]:
    """Ids of all processes below this one."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def memory_mib(processes: tuple[int, ...]) -> float:
    """Memory of some processes, what they share divided among its users (PSS), in MiB."""
    return sum(psutil.Process(pid).memory_full_info().pss for pid in processes) / 2**20
