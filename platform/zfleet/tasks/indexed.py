"""Samples that stay in their file: of each, only where its line begins and its id are kept, 16 bytes."""

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
"""A row and where it is to a sample."""


class IndexBuilder:
    """Takes samples as their file is read."""

    def __init__(self) -> None:
        self._offsets = array("q")
        self._ids = array("Q")

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, offset: int, identity: str) -> None:
        """One more.

        Args:
            offset: Where its line begins.
            identity: 16 hexadecimal digits.
        """
        self._offsets.append(offset)
        self._ids.append(int(identity, 16))

    def build(self, path: Path, parse: Parse) -> IndexedSamples:
        """All of them in the order of their ids, whatever their order in the file."""
        offsets, ids = np.frombuffer(self._offsets, np.int64), np.frombuffer(self._ids, np.uint64)
        order = np.argsort(ids, kind="stable")
        return IndexedSamples(path, parse, offsets[order], ids[order], _size(path))


@dataclass(frozen=True, eq=False)
class IndexedSamples(Sequence[Sample]):
    """A sequence that reads a sample when it is asked for.

    Attributes:
        path: The file, which must be there, unchanged, wherever the task is used.
        parse: From a row to its sample.
        offsets: [N] int64, where each line begins.
        ids: [N] uint64.
        size: The file's bytes when it was indexed.
        places: [M] int64, which of them are in this sequence; all in their order by default.
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
        """Some of them, in this order."""
        chosen = np.fromiter(indices, np.int64, len(indices))
        places = chosen if self.places is None else self.places[chosen]
        return IndexedSamples(self.path, self.parse, self.offsets, self.ids, self.size, places)

    def _open(self) -> BinaryIO:
        if _size(self.path) != self.size:
            raise TaskError(
                f"task file {self.path} changed since the job began", "leave it as it is, or start the job again"
            )
        return self.path.open("rb")

    def _read(self, file: BinaryIO, place: int) -> Sample:
        file.seek(int(self.offsets[place]))
        where = f"{self.path}, byte {self.offsets[place]}"
        sample = self.parse(parse_row(file.readline(), where), where)
        # Rows that are alike have one id: they are told apart by their number.
        first = int(np.searchsorted(self.ids, self.ids[place]))
        if place == first:
            return sample
        return replace(sample, id=f"{sample.id}-{place - first + 1}")


def select(samples: Sequence[Sample], indices: Sequence[int]) -> Sequence[Sample]:
    """Some samples of a split, in this order; those in a file stay there."""
    if isinstance(samples, IndexedSamples):
        return samples.select(indices)
    return tuple(samples[index] for index in indices)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TaskError(
            f"task file {path} cannot be read here: {error.strerror}",
            "a file this large stays where it is: put it on a path that every machine of the cluster sees",
        ) from error
