"""Give up rights and resources before running code that nobody has read."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Any

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
"""Arguments of ``prctl`` (linux/prctl.h, linux/seccomp.h)."""

_FILES, _TASKS = 64, 64
_INSTRUCTION_BYTES = 8


class _Program(ctypes.Structure):
    """``struct sock_fprog`` (linux/filter.h)."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def lock_down(limits: dict[str, Any]) -> None:
    """Limit this process's resources and system calls, permanently.

    Args:
        limits: ``seconds`` of processor time; ``memory`` and ``file`` in bytes; ``filter``, a seccomp program in
            hexadecimal, empty if there is none.
    """
    seconds = int(limits["seconds"]) + 1
    for kind, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, int(limits["memory"])),
        (resource.RLIMIT_FSIZE, int(limits["file"])),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_NPROC, _TASKS),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, allowed))
    if limits["filter"]:
        _filter(bytes.fromhex(limits["filter"]))


def _filter(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    loaded = _Program(len(program) // _INSTRUCTION_BYTES, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), f"prctl {arguments[0]}: {os.strerror(ctypes.get_errno())}")
