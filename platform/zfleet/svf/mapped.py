"""Tensors of a safetensors file without a copy: mapped read-only, one copy for all processes of a machine.

Their pages belong to the system's page cache and not to the process: they do not count against limits on a process's
own memory (RLIMIT_DATA), and the system takes them back when it needs room. PyTorch's and safetensors' own readers map
files privately and writable, which counts.

Writing to such a tensor kills the process (SIGSEGV), and so does a file that becomes shorter while it is mapped
(SIGBUS): put another tensor in its place, and another file under its name.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from zfleet.errors import BaseModelError
from zfleet.svf.stored import Entry, entries_of

# Python's own mappings keep a file open each, of which a process may have a thousand; and PyTorch warns, in a way that
# cannot be silenced for one thread alone, that it cannot tell a tensor from one that can be written.
_SYSTEM = ctypes.CDLL(None, use_errno=True)
_SYSTEM.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_SYSTEM.mmap.restype = ctypes.c_void_p
_SYSTEM.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a safetensors file; those of a type that PyTorch does not have are left out.

    A tensor that does not begin at a multiple of its numbers' size, as older writers left it, is copied instead.

    Raises:
        BaseModelError: The file cannot be read, or is truncated or damaged.
    """
    try:
        with path.open("rb") as file:
            entries = entries_of(file, path)
            memory = _map(file)
    except OSError as error:
        raise BaseModelError(f"{path} cannot be read: {error}", "fetch the base again") from error
    return {key: _tensor(memory, entry) for key, entry in entries.items() if entry.dtype is not None}


def _map(file: BinaryIO) -> ctypes.Array[ctypes.c_char]:
    """Map a file; the mapping ends with the last tensor on it."""
    size = os.fstat(file.fileno()).st_size
    address = _SYSTEM.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    memory = (ctypes.c_char * size).from_address(address)
    # Not when Python ends: other threads may still compute.
    weakref.finalize(memory, _SYSTEM.munmap, address, size).atexit = False
    return memory


def _tensor(memory: ctypes.Array[ctypes.c_char], entry: Entry) -> Tensor:
    assert entry.dtype is not None
    count = entry.size // entry.dtype.itemsize
    if not count:
        return torch.empty(entry.shape, dtype=entry.dtype)
    if entry.start % entry.dtype.itemsize:
        copied = bytearray(memoryview(memory)[entry.start : entry.start + entry.size])
        return torch.frombuffer(copied, dtype=entry.dtype).reshape(entry.shape)
    # A storage for each tensor: one for the whole file would be counted, and saved, with each of them.
    return torch.frombuffer(memory, dtype=entry.dtype, count=count, offset=entry.start).reshape(entry.shape)
