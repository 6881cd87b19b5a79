"""Writing files and folders so that a kill leaves either the old or the new one, never half of one."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    with new_file(path) as file:
        file.write(data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``, to write and to read; after the block flush it to disk and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Have ``fill`` write a folder under another name, unless it is there; if two do at once, the first stays."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not mkdtemp: its folders are closed to the other users of a shared cache.
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        fill(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read_or(path: Path, refuse: Callable[[OSError], Exception]) -> bytes:
    """Read a file; ``refuse`` makes the error to raise of an ``OSError``."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise refuse(error) from error
