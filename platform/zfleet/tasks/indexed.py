"""Samples that stay in their file. Memory holds 16 bytes for each: where its line begins, and its id."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from zfleet.errors import TaskError
from zfleet.tasks.rows import parse_row
from zfleet.tasks.task import Sample

Parse = Callable[[dict[str, Any], str], Sample]
"""Turns a row into a sample; the second argument is the row's place, for errors."""


class IndexBuilder:
    """Collects the places of samples while their file is read."""

    def __init__(self) -> None:
        self._offsets = array("q")
        self._ids = array("Q")

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, offset: int, identity: str) -> None:
        """Add a sample.

        Args:
            offset: Where its line begins, in bytes.
            identity: Its id, 16 hexadecimal digits.
        """
        self._offsets.append(offset)
        self._ids.append(int(identity, 16))

    def build(self, path: Path, parse: Parse) -> IndexedSamples:
        """Return the samples in the order of their ids, which does not depend on their order in the file."""
        offsets, ids = np.frombuffer(self._offsets, np.int64), np.frombuffer(self._ids, np.uint64)
        order = np.argsort(ids, kind="stable")
        return IndexedSamples(path, parse, offsets[order], ids[order], _size(path))


@dataclass(frozen=True, eq=False)
class IndexedSamples(Sequence[Sample]):
    """A sequence that reads each sample from the file on access.

    Attributes:
        path: The file. It must exist, unchanged, on every machine that uses the task.
        parse: Turns a row into a sample.
        offsets: [N] int64, the byte at which each line begins.
        ids: [N] uint64.
        size: The size of the file in bytes when it was indexed.
        places: [M] int64, the indices of this sequence's samples in ``offsets``; None means all, in order.
    """

    path: Path
    parse: Parse
    offsets: NDArray[np.int64]
    ids: NDArray[np.uint64]
    size: int
    places: NDArray[np.int64] | None = field(default=None)

    def __len__(self) -> int:
        return len(self.offsets if self.places is None else self.places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        place = range(len(self))[index]
        with self._open() as file:
            return self._read(file, place if self.places is None else int(self.places[place]))

    def __iter__(self) -> Iterator[Sample]:
        places = range(len(self.offsets)) if self.places is None else self.places
        with self._open() as file:
            for place in places:
                yield self._read(file, int(place))

    def select(self, indices: Sequence[int]) -> IndexedSamples:
        """Return the samples at these indices, in this order."""
        chosen = np.fromiter(indices, np.int64, len(indices))
        places = chosen if self.places is None else self.places[chosen]
        return IndexedSamples(self.path, self.parse, self.offsets, self.ids, self.size, places)

    def _open(self) -> BinaryIO:
        if _size(self.path) != self.size:
            raise TaskError(f"task file {self.path} changed since the job began", "restore it, or start the job again")
        return self.path.open("rb")

    def _read(self, file: BinaryIO, place: int) -> Sample:
        file.seek(int(self.offsets[place]))
        where = f"{self.path}, byte {self.offsets[place]}"
        sample = self.parse(parse_row(file.readline(), where), where)
        # Identical rows have the same id, so the second and later ones get a number.
        first = int(np.searchsorted(self.ids, self.ids[place]))
        if place == first:
            return sample
        return replace(sample, id=f"{sample.id}-{place - first + 1}")


def select(samples: Sequence[Sample], indices: Sequence[int]) -> Sequence[Sample]:
    """Return the samples at these indices, in this order; samples in a file stay there."""
    if isinstance(samples, IndexedSamples):
        return samples.select(indices)
    return tuple(samples[index] for index in indices)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TaskError(
            f"task file {path} cannot be read here: {error.strerror}",
            "a file of this size is not copied: put it on a path that every machine of the cluster can read",
        ) from error
