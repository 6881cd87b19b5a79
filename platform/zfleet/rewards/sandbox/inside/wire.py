"""Pack and unpack the values that pass between examiner and candidate: plain values, never code.

Each process has a table of the values that both know, by number: containers, values with parts, classes, and objects
that stay where they are. A known value crosses as its number, which keeps aliases, cycles and identity. One process
always waits for the other, and each message brings the new contents of all containers that changed, so that both
processes see the same contents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from sys import getrefcount
from typing import Any

from .contents import FILLERS, HUGE, Parts, are_json, base_of, empty, max_length, parts_of, rebuild, view, view_of
from .known import name_of, named
from .shared import Shared

_PLAIN = {int, float, str, bool, type(None)}

_SWEEP = 64
"""A table may gain this many entries before the unreferenced ones are searched for."""

_DEEPEST = 20_000
"""The deepest nesting of values in a message: C code that hashes or frees deeper values overflows its stack."""

Record = list[Any]
"""A table entry in a message: its number, then its class and its parts."""


def _references() -> int:
    """Count the references to a value that only a table holds, in the way ``Wire._alone`` does."""
    held = {0: object()}
    for number in held:
        value = held[number]
    return getrefcount(value)


_ALONE = _references()


class Wire(ABC):
    """One process's table, and the packing and unpacking of values.

    Attributes:
        reading: Whether a message is being read. While it is, objects are incomplete and must not be compared.
        extras: The result of the other process's ``extra`` for each of its objects, by number.
    """

    def __init__(self, first: int) -> None:
        """Start a table. ``first`` is 0 in one process and 1 in the other: they give even and odd numbers."""
        self.reading = False
        self.extras: dict[int, int] = {}
        self._next = first
        self._held: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._staying: set[int] = set()
        self._depths: dict[int, int] = {}
        self._shared: dict[int, Shared] = {}
        self._groups = {base: Shared(base) for base in FILLERS}
        self._records: dict[str, list[Record]] = {}
        self._pending: list[tuple[int, Any, int | None]] = []
        self._sweep_at = _SWEEP

    @abstractmethod
    def class_item(self, kind: type) -> Any:
        """Pack a class that the other process does not have."""

    @abstractmethod
    def class_of(self, value: object) -> tuple[Any, bool]:
        """Pack the class of a value, which the other process does not have; return also whether the value stays."""

    @abstractmethod
    def stand_in_for(self, value: object) -> tuple[Any, list[Any]]:
        """Describe the stand-in for an object without plain contents: its kind, and its parts as items."""

    @abstractmethod
    def extra(self, value: object) -> int | None:
        """Return the number to send along with an object that stays in this process."""

    @abstractmethod
    def make_class(self, rest: Record) -> Any:
        """Make the class that stands for one of the other process's."""

    @abstractmethod
    def make(self, kind: Any, parts: list[Any]) -> Any:
        """Make the stand-in for an object that stays in the other process."""

    def item(self, value: object) -> Any:
        """Pack a value for JSON.

        Raises:
            RecursionError: Tuples in the value are nested too deeply.
        """
        kind = type(value)
        if value is None or kind is str or kind is bool or (kind is float and value == value):  # NaN
            return value
        if isinstance(value, int) and kind is int:
            return value if -HUGE < value < HUGE else ["int", hex(value)]
        number = self._numbers.get(id(value))
        if number is not None:
            return [number]
        if (name := name_of(value)) is not None:
            return ["name", name]
        if isinstance(value, type):
            return self.class_item(value)
        if dictionary_view := view_of(value):
            which, dictionary = dictionary_view
            return [which, self.item(dictionary)]
        return [self._add(value)]

    def number(self, value: object, stays: bool = False) -> int:
        """Enter a value into the table, and return its number.

        Args:
            stays: The value stays in this process, and in the table until the other process forgets it.
        """
        number = self._next
        self._next += 2
        self._hold(number, value)
        if stays:
            self._staying.add(number)
        return number

    def known(self, value: object) -> int | None:
        """Return the number of a value that both processes know; None if it is not in the table."""
        return self._numbers.get(id(value))

    def record(self, part: str, record: Record) -> None:
        """Add a record to ``classes``, ``values`` or ``contents`` of the next message."""
        self._records.setdefault(part, []).append(record)

    def message(self) -> dict[str, list[Any]]:
        """Return the records that the other process must read before the items packed since the last message."""
        groups = [group for group in self._groups.values() if group]
        self._pending += [(number, None, None) for group in groups for number in group.changed()]
        forgotten = [number for group in groups for number in group.unreferenced() if number not in self._staying]
        while self._pending:
            number, kind, extra = self._pending.pop()
            self.record("contents", [number, kind, extra, self._items(self._see(number))])
        self.forget(forgotten)
        # Objects that stay here are removed when the other process forgets them, so they do not count.
        if len(self._held) - len(self._staying) > self._sweep_at:
            forgotten += self._sweep()
            self._sweep_at = 2 * (len(self._held) - len(self._staying)) + _SWEEP
        records, self._records = self._records, {}
        return records | ({"forgotten": forgotten} if forgotten else {})

    def value(self, item: Any) -> Any:
        """Unpack an item.

        Raises:
            ValueError, LookupError, TypeError: This is not an item, or its number is unknown.
        """
        if not isinstance(item, list):
            if isinstance(item, dict):
                raise TypeError("a JSON object is not an item")
            return item
        if len(item) == 1:
            return self._held[item[0]]
        form, inner = item
        if form == "int":
            return int(inner, 16)
        return named(inner) if form == "name" else view(form, self.value(inner))

    def read(self, message: dict[str, Any]) -> None:
        """Enter the records of a message into the table, and give known containers their new contents.

        Raises:
            ValueError, LookupError, TypeError, ArithmeticError: The records were not made by ``message``.
        """
        self.reading = True
        try:
            self._read(message.get("classes", ()), message.get("values", ()), message.get("contents", ()))
        finally:
            self.reading = False

    def forget(self, numbers: list[int]) -> None:
        """Remove values from the table that one of the processes no longer has."""
        for number in numbers:
            self._numbers.pop(id(self._held.pop(number)), None)
            if group := self._shared.pop(number, None):
                group.forget(number)
            self.extras.pop(number, None)
            self._depths.pop(number, None)
            self._staying.discard(number)

    def _add(self, value: object) -> int:
        kind = type(value)
        base = base_of(kind)
        if base is object:
            which, parts = self.stand_in_for(value)
            number = self.number(value, stays=True)
            self.record("values", [number, which, self.extra(value), parts])
            return number
        if name := name_of(kind):
            which, stays = ["name", name], False
        else:
            which, stays = self.class_of(value)
        number = self.number(value, stays)
        extra = self.extra(value) if stays else max_length(base, value)
        if base in FILLERS:
            self._pending.append((number, which, extra))
        else:
            self.record("values", [number, which, extra, self._items(tuple(parts_of(base, value)))])
        return number

    def _items(self, parts: Parts) -> list[Any]:
        return [*parts] if are_json(parts) else [self.item(part) for part in parts]

    def _values(self, items: list[Any]) -> list[Any]:
        return items if _PLAIN.issuperset(map(type, items)) else [self.value(item) for item in items]

    def _see(self, number: int) -> Parts:
        value = self._held[number]
        group = self._shared[number] = self._groups[base_of(type(value))]
        return group.see(number, value)

    def _sweep(self) -> list[int]:
        """Forget values that only the table refers to, then values that only those referred to; return the numbers."""
        forgotten: list[int] = []
        checked, unreferenced = 0, [0]
        # Each pass frees one value of a long chain, so the rest of a chain waits for the next sweep.
        while unreferenced and checked <= 4 * len(forgotten):
            numbers = self._held.keys() - self._shared.keys() - self._staying
            unreferenced = self._alone(numbers)
            checked += len(numbers)
            self.forget(unreferenced)
            forgotten += unreferenced
        return forgotten

    def _alone(self, numbers: Iterable[int]) -> list[int]:
        """Return the numbers of values that only the table refers to."""
        alone = []
        for number in numbers:
            value = self._held[number]
            if getrefcount(value) == _ALONE:
                alone.append(number)
        return alone

    def _hold(self, number: int, value: object) -> None:
        self._held[number] = value
        self._numbers[id(value)] = number

    def _take(self, number: int, value: object, extra: int | None = None) -> None:
        if not isinstance(number, int) or number in self._held or number % 2 == self._next % 2:
            raise ValueError(f"{number!r} is not a new number of the other process")
        self._hold(number, value)
        if extra is not None:
            self.extras[number] = extra

    def _limit_depth(self, number: int, items: list[Any]) -> None:
        inner = [self._depths.get(item[0], 1) for item in items if isinstance(item, list) and len(item) == 1]
        if inner:
            depth = self._depths[number] = 1 + max(inner)
            if depth > _DEEPEST:
                raise ValueError(f"values are nested more than {_DEEPEST:,} deep")

    def _read(self, classes: list[Record], values: list[Record], contents: list[Record]) -> None:
        for number, *rest in classes:
            self._take(number, self.make_class(rest))
        for number, which, extra, _ in contents:
            if number not in self._held:
                kind = self.value(which)
                self._take(number, empty(kind, base_of(kind), extra), extra)
        for number, which, extra, items in values:
            kind, parts = self.value(which), self._values(items)
            self._limit_depth(number, items)
            base = base_of(kind) if isinstance(kind, type) else object
            self._take(number, self.make(kind, parts) if base is object else rebuild(kind, base, parts), extra)
        for number, _, _, items in contents:
            value = self._held[number]
            FILLERS[base_of(type(value))](value, self._values(items))
            self._see(number)
