"""Which OpenMP a vLLM on CPUs runs its threads with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_INTEL = Path(sys.prefix, "lib", "libiomp5.so")
"""Package ``intel-openmp``, which comes with vLLM's build for CPUs."""


def openmp_environment() -> dict[str, str]:
    """What to set for processes to come, so that they use Intel's OpenMP; nothing where another one was chosen.

    GNU's threads wait for each other in tight loops, which costs dearly where an engine's threads and its other
    processes share few cores. Intel's do so for a fifth of a second unless told otherwise; 5 ms is what vLLM tells it
    where it binds threads to cores.
    """
    loaded = os.environ.get("LD_PRELOAD", "")
    if not _INTEL.is_file() or "omp" in loaded:
        return {}
    return {"LD_PRELOAD": f"{_INTEL} {loaded}".strip(), "KMP_BLOCKTIME": os.environ.get("KMP_BLOCKTIME", "5")}


def openmp_in_use() -> str:
    """For people: which one processes started now would use."""
    return "intel" if _INTEL.name in os.environ.get("LD_PRELOAD", "") else "torch's own"
