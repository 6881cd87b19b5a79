"""Containers that both processes know, and which of them changed.

Each message looks at all of them: that must stay cheap where there are many, so that none is looked at alone unless one
of its kind changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from operator import is_, itemgetter
from sys import getrefcount
from typing import Any

from .contents import READERS

Columns = list[tuple[Any, ...]]
"""A container's parts: of a dictionary, its keys and its values."""


def _references() -> int:
    """References to a value that is left to two tables, as ``Shared.left`` counts them."""
    first = {0: object()}
    second = dict(first)
    return next(map(getrefcount, second.values()))


_LEFT = _references()


class Shared:
    """Those of one class, by number."""

    def __init__(self, base: type) -> None:
        self._readers: tuple[Callable[[Any], Iterable[Any]], ...] = READERS[base]
        self._length: Callable[[Any], int] = vars(base).get("__len__", dict.__len__)
        self._held: dict[int, Any] = {}
        self._seen: dict[int, Columns] = {}
        self._flat: tuple[list[int], list[list[Any]]] | None = None

    def __bool__(self) -> bool:
        return bool(self._held)

    def see(self, number: int, value: Any) -> list[Any]:
        """Take a container's parts for what both processes know; gives them."""
        columns = [tuple(read(value)) for read in self._readers]
        if number in self._held:
            self._flat = None
        elif self._flat is not None:
            lengths, flat = self._flat
            lengths.append(len(columns[-1]))
            for all_parts, parts in zip(flat, columns, strict=True):
                all_parts.extend(parts)
        self._held[number], self._seen[number] = value, columns
        return list(chain.from_iterable(columns))

    def forget(self, number: int) -> None:
        """Leave one out."""
        del self._held[number]
        del self._seen[number]
        self._flat = None

    def changed(self) -> list[int]:
        """Those that are no longer as they were seen: identity counts, as 1 equals True."""
        lengths, flat = self._flat = self._flat or self._flattened()
        values = self._held.values()
        if lengths == list(map(self._length, values)) and all(
            all(map(is_, chain.from_iterable(map(read, values)), before))
            for read, before in zip(self._readers, flat, strict=True)
        ):
            return []
        return [number for number, value in self._held.items() if not self._same(value, self._seen[number])]

    def left(self) -> list[int]:
        """Those that nobody in this process holds but the tables."""
        counts = list(map(getrefcount, self._held.values()))
        if _LEFT not in counts:
            return []
        return [number for number, count in zip(self._held, counts, strict=True) if count == _LEFT]

    def _flattened(self) -> tuple[list[int], list[list[Any]]]:
        """All their lengths, and all their parts, column by column."""
        seen = self._seen.values()
        flat = [list(chain.from_iterable(map(itemgetter(place), seen))) for place in range(len(self._readers))]
        return list(map(len, map(itemgetter(-1), seen))), flat

    def _same(self, value: Any, columns: Columns) -> bool:
        now = [tuple(read(value)) for read in self._readers]
        return all(len(a) == len(b) and all(map(is_, a, b)) for a, b in zip(now, columns, strict=True))
