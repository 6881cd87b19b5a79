"""What a process gives up before it runs code that nobody has read."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Any

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
"""Of ``prctl`` (linux/prctl.h, linux/seccomp.h)."""

_FILES, _TASKS = 64, 64
_INSTRUCTION_BYTES = 8


class _Program(ctypes.Structure):
    """``struct sock_fprog`` (linux/filter.h)."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def lock_down(limits: dict[str, Any]) -> None:
    """Limit what this process may use, for good.

    Args:
        limits: ``seconds`` of processor time; ``memory`` and ``file`` in bytes; ``filter``: a seccomp program in hex,
            empty where there is none.
    """
    seconds = int(limits["seconds"]) + 1
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, int(limits["memory"])),
        (resource.RLIMIT_FSIZE, int(limits["file"])),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_NPROC, _TASKS),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    if limits["filter"]:
        _filter(bytes.fromhex(limits["filter"]))


def _filter(program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    loaded = _Program(len(program) // _INSTRUCTION_BYTES, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), f"prctl {arguments[0]}: {os.strerror(ctypes.get_errno())}")
