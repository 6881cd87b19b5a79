"""Writing files so that a kill leaves either the old or the new one, never half of one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary file beside ``path``, flush it to disk, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_or(path: Path, refuse: Callable[[OSError], Exception]) -> bytes:
    """The file's bytes; an ``OSError`` becomes the error that ``refuse`` makes of it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise refuse(error) from error
