"""What memory one gradient takes at most, in a process that does nothing else."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from learning.step import SIZES, WAYS, Way, gradient_of, recorded

_KIB = 1 / 1024


def measure_memory(base: str, threads: int, micro_batch_tokens: int) -> dict[str, Any]:
    """By tokens a step and way: ``step_mib``, what the gradient adds to what was there before, and ``peak_mib``."""

    def in_a_process(way: Way, tokens: int) -> dict[str, float]:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_peak, way, base, tokens, threads, micro_batch_tokens).result()

    return {str(tokens): {way: in_a_process(way, tokens) for way in WAYS} for tokens in SIZES}


def _peak(way: Way, base: str, tokens: int, threads: int, micro_batch_tokens: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    with gradient_of(way, base, micro_batch_tokens) as gradient:
        rollouts = recorded(SIZES[tokens])
        # Code that the first step loads is there.
        gradient(recorded(SIZES[64])[:1])
        return peak_of(lambda: gradient(rollouts))


def peak_of(work: Callable[[], object]) -> dict[str, float]:
    """``step_mib``, what some work adds at most to what this process held before it, and ``peak_mib``."""
    # What loading left behind is given back first.
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mib("VmRSS")
    work()
    peak = memory_mib("VmHWM")
    return {"step_mib": peak - before, "peak_mib": peak}


def memory_mib(key: str) -> float:
    """Return an entry of this process's memory, such as ``VmRSS``, in MiB."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) * _KIB
