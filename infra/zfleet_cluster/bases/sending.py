"""Bringing a base's files from one node of the cluster to another, through Ray, piece by piece.

The pieces are read by tasks that run on the node that has the files. Ray starts them again if their process dies, and
nothing is left of them when the last piece was read.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zfleet.errors import BaseModelError
from zfleet.models.reference import FolderReference, StoredFile
from zfleet.remembered import pieces, sha256_of
from zfleet_cluster.bases.copying import copy_files
from zfleet_cluster.errors import on_one_line

log = logging.getLogger(__name__)

_PIECE = 8 * 2**20
"""Bytes of a piece."""
_AHEAD = 3
"""Pieces under way at once: so many lie in the object stores of both nodes."""
_RETRIES = 3
_FIRST_REPORT_SECONDS = 10.0
_GIB = 2**30


@dataclass(frozen=True)
class SendingNode:
    """The node that has a base's files.

    Attributes:
        id: Ray's id of it.
        host: Its name.
    """

    id: str
    host: str

    @classmethod
    def here(cls) -> SendingNode:
        """The node that this process runs on."""
        return cls(ray.get_runtime_context().get_node_id(), socket.gethostname())

    def bring(self, folder: FolderReference, files: Sequence[StoredFile], into: Path) -> None:
        """Copy files of a folder of that node into one of this node, as ``zfleet.models.places.Bring``.

        Raises:
            BaseModelError: That node is gone or has not these files any more, or there is no room here.
        """
        before = sum((into / file.partial).stat().st_size for file in files if (into / file.partial).exists())
        progress = _Progress(f"{folder.what} from {self.host} to {into} on {socket.gethostname()}", files, before)
        copy_files(_Folder(self, folder), files, into, progress.arrived)


class _Folder:
    """A folder of another node, as ``Source``."""

    def __init__(self, node: SendingNode, folder: FolderReference) -> None:
        self._node = node
        self._folder = folder
        self._where: Any = {
            "num_cpus": 0,
            "max_retries": _RETRIES,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
        }

    def pieces(self, name: str, start: int, end: int) -> Iterator[memoryview]:
        path = f"{self._folder.path}/{name}"
        waiting: deque[Any] = deque()
        for place in range(start, end, _PIECE):
            waiting.append(_read.options(**self._where).remote(path, place, min(_PIECE, end - place)))
            if len(waiting) == _AHEAD:
                yield self._get(waiting.popleft()).data
        while waiting:
            yield self._get(waiting.popleft()).data

    def prefix_sha256(self, name: str, size: int) -> str:
        return str(self._get(_prefix_sha256.options(**self._where).remote(f"{self._folder.path}/{name}", size)))

    def _get(self, task: Any) -> Any:
        try:
            return ray.get(task)
        except RayTaskError as error:
            if not isinstance(error.cause, OSError):
                raise
            raise BaseModelError(
                f"{self._folder.what} cannot be read on {self._node.host}: {error.cause}",
                "put the files back as they were, or start the job again on a machine that has them",
            ) from error
        except RayError as error:
            raise BaseModelError(
                f"{self._folder.what} stopped on the way from {self._node.host} to {socket.gethostname()}: "
                f"{type(error).__name__}: {on_one_line(error)}",
                "the same command goes on where it stopped, as soon as that machine is there",
            ) from error


class _Progress:
    """Logs how far the files are, at ever longer intervals."""

    def __init__(self, what: str, files: Sequence[StoredFile], before: int) -> None:
        self._what = what
        self._all = sum(file.size for file in files)
        self._arrived = before
        self._wait = _FIRST_REPORT_SECONDS
        self._next = time.monotonic() + self._wait
        there = f", {before / _GIB:.2f} of them are there from before" if before else ""
        log.warning("fetching %s: %.2f GiB%s", what, self._all / _GIB, there)

    def arrived(self, size: int) -> None:
        self._arrived += size
        if time.monotonic() >= self._next:
            self._wait *= 2
            self._next = time.monotonic() + self._wait
            log.warning("fetching %s: %.2f of %.2f GiB arrived", self._what, self._arrived / _GIB, self._all / _GIB)


def _read_piece(path: str, start: int, size: int) -> NDArray[np.uint8]:
    return np.fromfile(path, np.uint8, size, offset=start)


def _hash_prefix(path: str, size: int) -> str:
    return sha256_of(pieces(Path(path), 0, size))


_read: Any = ray.remote(_read_piece)
_prefix_sha256: Any = ray.remote(_hash_prefix)
