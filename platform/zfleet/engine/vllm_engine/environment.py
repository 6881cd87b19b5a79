"""What the processes of a vLLM on CPUs are started with: threads that wait little, and memory that is kept.

Both are the environment's, and are read when a process starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_INTEL = Path(sys.prefix, "lib", "libiomp5.so")
"""Package ``intel-openmp``, which comes with vLLM's build for CPUs."""

_KEEPING = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""Of the GNU C library (``mallopt(3)``). As it comes, it hands the megabytes of a step's results back to the kernel and
asks for them again, zeroed and page by page: up to 30,000 page faults a second were measured; so, almost none."""


def cpu_environment() -> dict[str, str]:
    """What to set for processes to come; nothing where the environment has a choice of its own.

    GNU's threads wait for each other in tight loops, which costs dearly where an engine's threads and its other
    processes share few cores. Intel's do so for a fifth of a second unless told otherwise; 5 ms is what vLLM tells it
    where it binds threads to cores.
    """
    wanted = {} if any(name in os.environ for name in _KEEPING) else dict(_KEEPING)
    loaded = os.environ.get("LD_PRELOAD", "")
    if _INTEL.is_file() and "omp" not in loaded:
        wanted["LD_PRELOAD"] = f"{_INTEL} {loaded}".strip()
        wanted["KMP_BLOCKTIME"] = os.environ.get("KMP_BLOCKTIME", "5")
    return wanted


def openmp_in_use() -> str:
    """For people: which one processes started now would use."""
    return "intel" if _INTEL.name in os.environ.get("LD_PRELOAD", "") else "torch's own"
