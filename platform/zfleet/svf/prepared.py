"""Tensors in the form that a model computes with, in a safetensors file that is made once and then mapped.

What is stored is often not what is computed with: weights in another precision, U and s apart. If each process
converted them, each would hold a copy of its own; a file beside them is shared by all (``zfleet.svf.mapped``).
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from torch import Tensor

from zfleet.errors import ZfleetError
from zfleet.files import new_file
from zfleet.locks import alone
from zfleet.remembered import pieces, remember, remembered, sha256_of
from zfleet.svf.mapped import map_tensors
from zfleet.svf.streamed import Conversion, write_tensors

_UNKNOWN = "0" * 64
_METADATA = 1024
"""Bytes. The metadata stand first in the header."""
_SMALL = 2**16
"""Bytes. A file for less takes more than it saves."""

Refuse = Callable[[str, str], ZfleetError]
"""Makes the error to raise, of a message and a remedy."""


def converted(path: Path, source: str, tensors: Mapping[str, Conversion], refuse: Refuse) -> dict[str, Tensor]:
    """Return tensors, mapped from their file, which is made if it is not there; small ones are computed in memory.

    One process makes the file, under a lock; others wait. It has the digest of its numbers, and is made again if they
    have changed.

    Args:
        path: The file, in a folder of such files alone.
        source: Identity of what they are computed from.
        tensors: By name.
        refuse: See ``Refuse``.

    Raises:
        ZfleetError: The file cannot be written, as ``refuse`` makes it: it names the machine and the bytes.
    """
    small = {name: one.compute() for name, one in tensors.items() if one.nbytes < _SMALL}
    large = {name: one for name, one in tensors.items() if name not in small}
    if not large:
        return small
    if not _is_whole(path, source, large.keys()):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path.with_name(".lock"), f"prepares {path}"):
                if not _is_whole(path, source, large.keys()):
                    _write(path, source, large)
        except OSError as error:
            need = sum(one.nbytes for one in large.values())
            room = shutil.disk_usage(next(place for place in path.parents if place.is_dir())).free
            raise refuse(
                f"{path} cannot be written on {socket.gethostname()}: {error} ({need} bytes, {room} are free there)",
                "make room there, or set ZFLEET_CACHE to another folder; the same command goes on where it stopped",
            ) from error
    return {**small, **map_tensors(path)}


def _is_whole(path: Path, source: str, names: Collection[str]) -> bool:
    """Whether a file was made of this source, and holds what was written: these tensors."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
        metadata = header.pop("__metadata__")
        found = remembered("data", [path], lambda: sha256_of(pieces(path, 8 + length)))
        return bool(header.keys() == set(names) and (metadata["source"], metadata["sha256"]) == (source, found))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write(path: Path, source: str, tensors: Mapping[str, Conversion]) -> None:
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)  # of a process that was killed while it wrote
    with new_file(path) as file:
        digest = write_tensors(file, tensors, {"sha256": _UNKNOWN, "source": source})
        # In the place of the first digest in the header, which is this one's.
        file.seek(0)
        file.seek(file.read(_METADATA).index(_UNKNOWN.encode()))
        file.write(digest.encode())
    remember("data", [path], digest)
