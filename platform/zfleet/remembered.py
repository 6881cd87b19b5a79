"""What was computed from big files, such as their sha256: remembered until the system says that a file has changed.

A file counts as unchanged while its inode, size, time of modification and time of status change stay the same. A
program can set the time of modification, but not that of the status change. Two writes within one tick of the file
system's clock leave the same times, so nothing is remembered of files that changed in the last two seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from zfleet.paths import cache_root

SMALL = 2**20
"""Bytes. To read or compute less than this again costs less than to keep a file about it."""

PIECE = 8 * 2**20
"""Bytes that are read at once."""

_SETTLED_NS = 2_000_000_000
"""The coarsest clock of a file system has ticks of two seconds."""


def remembered(kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """Return what ``compute`` gives of these files, or what it gave before if none of them has changed since.

    Args:
        kind: What is computed; other kinds of the same files are remembered apart.
        files: All files that it depends on.
        compute: Computes it.

    Raises:
        OSError: A file is not there. Besides, what ``compute`` raises.
    """
    before = _stamps(files)
    if sum(stamp[2] for stamp in before) < SMALL:
        return compute()
    record = _record(kind, files)
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(record.read_text())
        if known["files"] == [list(stamp) for stamp in before]:
            return str(known["value"])
    now = time.time_ns()
    value = compute()
    if _stamps(files) == before and all(max(stamp[3:]) < now - _SETTLED_NS for stamp in before):
        _keep(record, before, value)
    return value


def remember(kind: str, files: Sequence[Path], value: str) -> None:
    """Remember what is known of files that this process has just written, without reading them."""
    stamps = _stamps(files)
    if sum(stamp[2] for stamp in stamps) >= SMALL:
        _keep(_record(kind, files), stamps, value)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, remembered; it is read in pieces.

    Raises:
        OSError: It cannot be read.
    """
    return remembered("sha256", [path], lambda: sha256_of(pieces(path)))


def sha256_of(parts: Iterator[bytes]) -> str:
    """Compute the sha256 of pieces."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()


def pieces(path: Path, start: int = 0, size: int | None = None) -> Iterator[bytes]:
    """Read a file, or ``size`` bytes of it from ``start`` on, in pieces; fewer bytes come if the file is shorter."""
    with path.open("rb") as file:
        file.seek(start)
        left = size
        while left is None or left > 0:
            piece = file.read(PIECE if left is None else min(PIECE, left))
            if not piece:
                return
            if left is not None:
                left -= len(piece)
            yield piece


def _stamps(files: Sequence[Path]) -> list[tuple[str, int, int, int, int]]:
    found = []
    for path in files:
        real = os.path.realpath(path)
        status = os.stat(real)  # noqa: PTH116
        found.append((real, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return found


def _record(kind: str, files: Sequence[Path]) -> Path:
    name = hashlib.sha256("\0".join(os.path.realpath(path) for path in files).encode()).hexdigest()
    return cache_root() / "remembered" / f"{kind}-{name[:32]}.json"


def _keep(record: Path, stamps: Sequence[tuple[str, int, int, int, int]], value: str) -> None:
    # Not kept on a full or read-only disk: it only saves time.
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        # Not flushed to the disk: a record that a crash has cut is read as none.
        temporary = record.with_name(f".{record.name}.{uuid.uuid4().hex}")
        temporary.write_text(json.dumps({"files": stamps, "value": value}))
        temporary.replace(record)
