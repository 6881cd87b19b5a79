"""Environment variables of vLLM's processes on CPUs: threads that spin little, and memory that the process keeps.

A process reads both when it starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_INTEL = Path(sys.prefix, "lib", "libiomp5.so")
"""Intel's OpenMP, from package ``intel-openmp``, a dependency of vLLM's build for CPUs."""

_KEEPING = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""Settings of the GNU C library (``mallopt(3)``). By default it returns the megabytes of a step's results to the kernel
and asks for them again, zeroed and page by page: up to 30,000 page faults a second were measured, almost none so."""


def cpu_environment() -> dict[str, str]:
    """Return the variables to set before processes start. What the environment sets already stays as it is.

    GNU's OpenMP threads wait for each other in tight loops, which is expensive if an engine's threads and its other
    processes share few cores. Intel's spin for 200 ms by default. 5 ms is vLLM's own setting where it binds threads to
    cores.
    """
    variables = {} if any(name in os.environ for name in _KEEPING) else dict(_KEEPING)
    preloaded = os.environ.get("LD_PRELOAD", "")
    if _INTEL.is_file() and "omp" not in preloaded:
        variables["LD_PRELOAD"] = f"{_INTEL} {preloaded}".strip()
        variables["KMP_BLOCKTIME"] = os.environ.get("KMP_BLOCKTIME", "5")
    return variables


def openmp_in_use() -> str:
    """Name, for a report, the OpenMP that processes started now would use."""
    return "intel" if _INTEL.name in os.environ.get("LD_PRELOAD", "") else "torch's own"
