"""Copying files in pieces: verified, resumed where an earlier copy stopped, and complete or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from zfleet.errors import BaseModelError
from zfleet.models.reference import StoredFile
from zfleet.remembered import pieces, remember

_AGAIN = "the same command goes on where it stopped"


class Source(Protocol):
    """The files of a folder somewhere else."""

    def pieces(self, name: str, start: int, end: int) -> Iterator[memoryview]:
        """Read a file from ``start`` up to ``end``, in pieces."""

    def prefix_sha256(self, name: str, size: int) -> str:
        """Compute the sha256 of a file's first bytes."""


def copy_files(source: Source, files: Sequence[StoredFile], into: Path, arrived: Callable[[int], None]) -> None:
    """Copy files into a folder.

    A file arrives under another name, and has its own when its sha256 is right. What a killed copy has left is compared
    with the source, and continued.

    Args:
        source: Has the files.
        files: Which ones; none of them is in the folder.
        into: The folder.
        arrived: Called with the bytes of each piece.

    Raises:
        BaseModelError: Not enough room (machine, folder and bytes are named), a file that the folder cannot take, or
            one with another sha256.
    """
    _check_room(files, into)
    for file in files:
        partial = into / file.partial
        try:
            _copy(source, file, partial, arrived)
            partial.replace(into / file.name)
        except OSError as error:
            room = shutil.disk_usage(into).free
            raise BaseModelError(
                f"{file.name} cannot be written to {into} on {socket.gethostname()}: {error} "
                f"({_left(file, into)} of {file.size} bytes are missing, {room} are free there)",
                f"make room there, or set ZFLEET_CACHE on that machine to a folder with room; {_AGAIN}",
            ) from error
        remember("sha256", [into / file.name], file.sha256)


def _check_room(files: Sequence[StoredFile], into: Path) -> None:
    need = sum(_left(file, into) for file in files)
    room = shutil.disk_usage(into).free
    if need > room:
        raise BaseModelError(
            f"{into} on {socket.gethostname()} has room for {room} bytes, {need} are needed",
            "make room there, or set ZFLEET_CACHE on that machine to a folder with room",
        )


def _left(file: StoredFile, into: Path) -> int:
    partial = into / file.partial
    return max(0, file.size - partial.stat().st_size) if partial.exists() else file.size


def _copy(source: Source, file: StoredFile, partial: Path, arrived: Callable[[int], None]) -> None:
    state, start = _continued(source, file, partial)
    with partial.open("r+b" if partial.exists() else "xb") as out:
        out.truncate(start)
        out.seek(start)
        for piece in source.pieces(file.name, start, file.size):
            state.update(piece)
            out.write(piece)
            arrived(len(piece))
        out.flush()
        os.fsync(out.fileno())
        size = out.tell()
    if (size, state.hexdigest()) != (file.size, file.sha256):
        partial.unlink()
        raise BaseModelError(
            f"{file.name} arrived on {socket.gethostname()} with {size} bytes of sha256 {state.hexdigest()[:12]}, "
            f"the job's has {file.size} of {file.sha256[:12]}",
            "it was changed after the job started, or damaged on the way: start the job again",
        )


def _continued(source: Source, file: StoredFile, partial: Path) -> tuple[hashlib._Hash, int]:
    """Return the hash and the size of what is here already, if it is the beginning of the file."""
    state = hashlib.sha256()
    size = partial.stat().st_size if partial.exists() else 0
    if not 0 < size <= file.size:
        return state, 0
    for piece in pieces(partial):
        state.update(piece)
    if state.hexdigest() != source.prefix_sha256(file.name, size):
        return hashlib.sha256(), 0
    return state, size
