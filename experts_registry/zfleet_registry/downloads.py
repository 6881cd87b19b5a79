"""Download artifacts once for each machine: a cache by sha256, which all processes and registries share."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from zfleet.files import write_atomic
from zfleet.paths import cache_root

logger = logging.getLogger(__name__)

LARGEST = 8 * 2**30
"""Bytes of the whole cache; beyond, the files that were not used for longest are deleted."""

_WAIT_SECONDS = 60
"""How long a process waits for another one that downloads the same file, before it downloads the file itself."""


def cached(sha256: str, download: Callable[[], bytes]) -> bytes:
    """Return a file by its sha256: from the cache if it is there and whole, otherwise downloaded and kept.

    Args:
        sha256: Of the file that is wanted.
        download: Returns it. If its sha256 is another one, it is returned all the same, and not kept.
    """
    file = folder() / sha256[:2] / sha256
    if (known := _read(file, sha256)) is not None:
        return known
    lock = _lock(file)
    try:
        if lock is not None and (known := _read(file, sha256)) is not None:
            return known
        data = download()
        if hashlib.sha256(data).hexdigest() == sha256:
            _keep(file, data)
        return data
    finally:
        if lock is not None:
            lock.release()


def folder() -> Path:
    """Return the folder of the cache. It may be deleted at any time."""
    return cache_root() / "experts"


def _read(file: Path, sha256: str) -> bytes | None:
    try:
        data = file.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() == sha256:
        with suppress(OSError):
            os.utime(file)
        return data
    logger.warning("%s is damaged: it is downloaded again", file)
    with suppress(OSError):
        file.unlink()
    return None


def _lock(file: Path) -> FileLock | None:
    """Hold the lock of a file that is downloaded; None if that cannot be, which costs only a second download."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # One for many files, so that the cache does not fill with locks.
        lock = FileLock(str(file.parent / ".lock"), timeout=_WAIT_SECONDS)
        lock.acquire()
    except (OSError, Timeout):
        return None
    return lock


def _keep(file: Path, data: bytes) -> None:
    # Not kept on a full or read-only disk: it only saves time.
    with suppress(OSError):
        write_atomic(file, data)
        # Looking at all files takes long if there are many: every 16th file is enough.
        if file.name.endswith("0"):
            _shrink(file.parent.parent)


def _shrink(root: Path) -> None:
    files = []
    for path in root.glob("*/*"):
        with suppress(OSError):
            status = path.stat()
            files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LARGEST:
            return
        if not path.name.startswith("."):
            with suppress(OSError):
                path.unlink()
                total -= size
