"""Find out which of the containers that both processes know have changed.

Every message checks all of them. To keep that cheap, all containers of one class are compared in one step, and one by
one only if that finds a change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from operator import is_, itemgetter
from sys import getrefcount
from typing import Any

from .contents import READERS

Columns = list[tuple[Any, ...]]
"""A container's parts, in one column or more: a dictionary has its keys and its values."""


def _references() -> int:
    """Count the references to a value that only two tables hold, in the way ``Shared.unreferenced`` does."""
    first = {0: object()}
    second = dict(first)
    return next(map(getrefcount, second.values()))


_UNREFERENCED = _references()


class Shared:
    """The shared containers of one class, by number."""

    def __init__(self, base: type) -> None:
        self._readers: tuple[Callable[[Any], Iterable[Any]], ...] = READERS[base]
        self._length: Callable[[Any], int] = vars(base).get("__len__", dict.__len__)
        self._held: dict[int, Any] = {}
        self._seen: dict[int, Columns] = {}
        self._flat: tuple[list[int], list[list[Any]]] | None = None

    def __bool__(self) -> bool:
        return bool(self._held)

    def see(self, number: int, value: Any) -> list[Any]:
        """Record a container's parts as the state that both processes know, and return them."""
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
        """Remove a container."""
        del self._held[number]
        del self._seen[number]
        self._flat = None

    def changed(self) -> list[int]:
        """Return the containers whose parts have changed since ``see``, by identity, because 1 equals True."""
        lengths, flat = self._flat = self._flat or self._flattened()
        values = self._held.values()
        if lengths == list(map(self._length, values)) and all(
            all(map(is_, chain.from_iterable(map(read, values)), before))
            for read, before in zip(self._readers, flat, strict=True)
        ):
            return []
        return [number for number, value in self._held.items() if not self._same(value, self._seen[number])]

    def unreferenced(self) -> list[int]:
        """Return the containers that nothing in this process refers to except the tables."""
        counts = list(map(getrefcount, self._held.values()))
        if _UNREFERENCED not in counts:
            return []
        return [number for number, count in zip(self._held, counts, strict=True) if count == _UNREFERENCED]

    def _flattened(self) -> tuple[list[int], list[list[Any]]]:
        """Return the lengths of all containers, and the parts of all, column by column."""
        seen = self._seen.values()
        flat = [list(chain.from_iterable(map(itemgetter(place), seen))) for place in range(len(self._readers))]
        return list(map(len, map(itemgetter(-1), seen))), flat

    def _same(self, value: Any, columns: Columns) -> bool:
        now = [tuple(read(value)) for read in self._readers]
        return all(len(a) == len(b) and all(map(is_, a, b)) for a, b in zip(now, columns, strict=True))
