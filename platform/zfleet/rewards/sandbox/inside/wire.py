"""What passes between examiner and candidate: plain values, never code.

Each process has a table of what both know, by number: containers, values with parts, classes, and objects that stay
where they are. What is known crosses as its number, so that aliases, cycles and identity are kept. One of the processes
always waits for the other: each message brings the new contents of all containers that changed, and both see the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from sys import getrefcount
from typing import Any

from .contents import FILLERS, HUGE, Parts, as_they_are, base_of, empty, made, made_of, most_of, view, view_of
from .known import name_of, named
from .shared import Shared

_PLAIN = {int, float, str, bool, type(None)}

_SWEEP = 64
"""Entries that a table may gain before those that nobody else holds are looked for."""

_DEEPEST = 20_000
"""Values in values that a message may bring: C code that hashes or frees deeper ones overflows its stack."""

Record = list[Any]


def _references() -> int:
    """Count them as Python does for a value that only a table holds, in a loop over its numbers."""
    held = {0: object()}
    for number in held:
        value = held[number]
    return getrefcount(value)


_ALONE = _references()


class Wire:
    """One process's end of it.

    Attributes:
        reading: Whether a message is being read: objects are then only put together.
        extras: By number, what ``extra`` gave of an object of the other process.
    """

    def __init__(self, first: int) -> None:
        """Start a table; ``first``: 0 on one side, 1 on the other: they give numbers that are even, and odd."""
        self.reading = False
        self.extras: dict[int, int] = {}
        self._next = first
        self._held: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._kept: set[int] = set()
        self._depths: dict[int, int] = {}
        self._shared: dict[int, Shared] = {}
        self._groups = {base: Shared(base) for base in FILLERS}
        self._news: dict[str, list[Record]] = {}
        self._unread: list[tuple[int, Any, int | None]] = []
        self._most = _SWEEP

    def class_item(self, kind: type) -> Any:
        """Pack a class that the other process does not have."""
        raise NotImplementedError

    def class_of(self, value: object) -> tuple[Any, bool]:
        """Pack the class of a value, which the other process does not have; and say whether the value stays here."""
        raise NotImplementedError

    def standing(self, value: object) -> tuple[Any, list[Any]]:
        """The kind and the parts, as items, of what stands over there for an object without plain contents."""
        raise NotImplementedError

    def extra(self, value: object) -> int | None:
        """A number that travels with an object that stays here."""
        raise NotImplementedError

    def make_class(self, rest: Record) -> Any:
        """A class that stands for one of the other process's."""
        raise NotImplementedError

    def make(self, kind: Any, parts: list[Any]) -> Any:
        """Make what stands for an object that stayed over there."""
        raise NotImplementedError

    def item(self, value: object) -> Any:
        """Pack a value as JSON takes it.

        Raises:
            RecursionError: Tuples in it are nested too deeply.
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
        if found := view_of(value):
            return [found[0], self.item(found[1])]
        return [self._add(value)]

    def number(self, value: object, kept: bool = False) -> int:
        """Enter a value; ``kept``: it stays here, until the other process forgets it."""
        number = self._next
        self._next += 2
        self._hold(number, value)
        if kept:
            self._kept.add(number)
        return number

    def known(self, value: object) -> int | None:
        """The number of a value that both know."""
        return self._numbers.get(id(value))

    def tell(self, what: str, record: Record) -> None:
        """Add a record to ``classes``, ``values`` or ``contents`` of the next message."""
        self._news.setdefault(what, []).append(record)

    def message(self) -> dict[str, list[Any]]:
        """What the other process must read before the items that were packed since the last message."""
        groups = [group for group in self._groups.values() if group]
        self._unread += [(number, None, None) for group in groups for number in group.changed()]
        forgotten = [number for group in groups for number in group.left() if number not in self._kept]
        while self._unread:
            number, kind, extra = self._unread.pop()
            self.tell("contents", [number, kind, extra, self._items(self._see(number))])
        self.forget(forgotten)
        # What stays here until the other process forgets it does not count.
        if len(self._held) - len(self._kept) > self._most:
            forgotten += self._sweep()
            self._most = 2 * (len(self._held) - len(self._kept)) + _SWEEP
        news, self._news = self._news, {}
        return news | ({"forgotten": forgotten} if forgotten else {})

    def value(self, item: Any) -> Any:
        """Unpack an item.

        Raises:
            ValueError, LookupError, TypeError: It is none, or its number is not known.
        """
        if not isinstance(item, list):
            if isinstance(item, dict):
                raise TypeError("an object is no item")
            return item
        if len(item) == 1:
            return self._held[item[0]]
        what, inner = item
        if what == "int":
            return int(inner, 16)
        return named(inner) if what == "name" else view(what, self.value(inner))

    def read(self, message: dict[str, Any]) -> None:
        """Enter what a message brings, and give known containers their new contents.

        Raises:
            ValueError, LookupError, TypeError, ArithmeticError: It is no message of ``message``.
        """
        self.reading = True
        try:
            self._read(message.get("classes", ()), message.get("values", ()), message.get("contents", ()))
        finally:
            self.reading = False

    def forget(self, numbers: list[int]) -> None:
        """Leave out of the table what one of the processes no longer has."""
        for number in numbers:
            self._numbers.pop(id(self._held.pop(number)), None)
            if group := self._shared.pop(number, None):
                group.forget(number)
            self.extras.pop(number, None)
            self._depths.pop(number, None)
            self._kept.discard(number)

    def _add(self, value: object) -> int:
        kind = type(value)
        base = base_of(kind)
        if base is object:
            which, parts = self.standing(value)
            number = self.number(value, kept=True)
            self.tell("values", [number, which, self.extra(value), parts])
            return number
        if name := name_of(kind):
            which, stays = ["name", name], False
        else:
            which, stays = self.class_of(value)
        number = self.number(value, stays)
        extra = self.extra(value) if stays else most_of(base, value)
        if base in FILLERS:
            self._unread.append((number, which, extra))
        else:
            self.tell("values", [number, which, extra, self._items(tuple(made_of(base, value)))])
        return number

    def _items(self, parts: Parts) -> list[Any]:
        return [*parts] if as_they_are(parts) else [self.item(part) for part in parts]

    def _values(self, items: list[Any]) -> list[Any]:
        return items if _PLAIN.issuperset(map(type, items)) else [self.value(item) for item in items]

    def _see(self, number: int) -> Parts:
        value = self._held[number]
        group = self._shared[number] = self._groups[base_of(type(value))]
        return group.see(number, value)

    def _sweep(self) -> list[int]:
        """Forget what nobody here but the table holds, and then what only that held; gives their numbers."""
        forgotten: list[int] = []
        looked_at, left = 0, [0]
        # Of a long chain of values each look frees one: the rest waits for the next sweep.
        while left and looked_at <= 4 * len(forgotten):
            numbers = self._held.keys() - self._shared.keys() - self._kept
            left = self._alone(numbers)
            looked_at += len(numbers)
            self.forget(left)
            forgotten += left
        return forgotten

    def _alone(self, numbers: Iterable[int]) -> list[int]:
        """Those that nobody here but the table holds."""
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
            raise ValueError(f"{number!r} is no new number")
        self._hold(number, value)
        if extra is not None:
            self.extras[number] = extra

    def _limit_depth(self, number: int, items: list[Any]) -> None:
        inner = [self._depths.get(item[0], 1) for item in items if isinstance(item, list) and len(item) == 1]
        if inner:
            depth = self._depths[number] = 1 + max(inner)
            if depth > _DEEPEST:
                raise ValueError(f"values lie in each other more than {_DEEPEST:,} deep")

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
            self._take(number, self.make(kind, parts) if base is object else made(kind, base, parts), extra)
        for number, _, _, items in contents:
            value = self._held[number]
            FILLERS[base_of(type(value))](value, self._values(items))
            self._see(number)
