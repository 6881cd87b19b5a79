"""Memory of a part of a process: what the device's allocator gave, or this process's resident pages."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

import torch


class Memory:
    """Measures memory, less what the process had when this object was made."""

    def __init__(self, device: str) -> None:
        """Begin to measure.

        Args:
            device: ``cuda`` counts what PyTorch's allocator gave there, ``cpu`` this process's resident memory.
        """
        self._gpu = device == "cuda"
        self._before = self._now()

    def held(self) -> float:
        """Return what is held now, in MiB; the peak is measured from here on."""
        held = self._now() - self._before
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            # This resets the highest resident memory so far (proc(5), since Linux 4.0).
            Path("/proc/self/clear_refs").write_text("5")
        return held

    def peak(self) -> float:
        """Return the most since ``held``, in MiB; what was held is part of it."""
        most = torch.cuda.max_memory_allocated() / 2**20 if self._gpu else _status("VmHWM")
        return most - self._before

    def _now(self) -> float:
        gc.collect()
        if self._gpu:
            return torch.cuda.memory_allocated() / 2**20
        # The C library holds on to some freed memory; only glibc has a call that returns it.
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        return _status("VmRSS")


def _status(key: str) -> float:
    """Read an entry of this process's memory, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
    return kib / 1024
