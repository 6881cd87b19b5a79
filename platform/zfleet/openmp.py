"""The threads with which OpenMP helps a thread that computes."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

_SOFT = 1
"""``omp_pause_soft``: settings stay."""


def end_helpers() -> None:
    """End the threads that OpenMP keeps for the calling thread, which gets new ones when it computes again.

    Call it in a thread that computed with PyTorch and lets another one compute now. Once a process has more such
    threads than the machine has processors, GNU's OpenMP lets all of them sleep between two operations, and an
    operation takes tens of microseconds more. Ending them takes a third of a millisecond.
    """
    for runtime in _runtimes():
        runtime.omp_pause_resource_all(_SOFT)


@cache
def _runtimes() -> tuple[Any, ...]:
    """GNU's runtime as PyTorch brings it; nothing where PyTorch has another one."""
    libraries = (ctypes.CDLL(str(path)) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*"))
    # Before OpenMP 5 there was no such function.
    return tuple(library for library in libraries if hasattr(library, "omp_pause_resource_all"))
