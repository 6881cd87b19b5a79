"""The memory of one process, part by part, and whether it fits."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from zfleet.errors import SpecError

log = logging.getLogger(__name__)

_GIB = 2**30
_NAMED = 3
"""Parts that an error names: the largest ones."""

When = Literal["always", "generating", "learning"]


@dataclass(frozen=True)
class Part:
    """A part of a process's memory.

    Attributes:
        name: What it is.
        bytes: What it takes at most.
        how: How the number was derived.
        when: Whether it is held all the time, or in one phase of a step.
    """

    name: str
    bytes: int
    how: str
    when: When = "always"


@dataclass(frozen=True)
class Room:
    """What one process may use.

    Attributes:
        most: The bytes that it can ever have: more is refused.
        now: The bytes that are free for it now.
        what: Where the numbers come from, in words.
        asked: Whether the spec says so, with resources.memory.
    """

    most: int
    now: int
    what: str
    asked: bool = False


@dataclass(frozen=True)
class MemoryTable:
    """The parts of one process, such as ``a worker``.

    Attributes:
        process: What it is called.
        parts: All parts.
        together: Whether it generates and learns at the same time.
    """

    process: str
    parts: tuple[Part, ...]
    together: bool = False

    @property
    def peak(self) -> int:
        """The most that it needs at once, in bytes: phases that take turns do not add up."""
        always, *phases = (self._of(when) for when in ("always", "generating", "learning"))
        return always + (sum(phases) if self.together else max(phases))

    def largest(self) -> str:
        """Name the largest parts with their sizes."""
        ordered = sorted(self.parts, key=lambda part: -part.bytes)
        return ", ".join(f"{part.name} {gib(part.bytes)}" for part in ordered[:_NAMED])

    def check(self, room: Room, keys: str, always: bool = False) -> None:
        """Refuse what can never fit, and warn of what does not fit now.

        Args:
            room: What the process may use.
            keys: The keys of the spec that lower what it needs.
            always: Refuse only if what is held all the time can never fit.

        Raises:
            SpecError: Says what it needs, the largest parts, and what there is.
        """
        need = self._of("always") if always else self.peak
        if need > room.most:
            raise SpecError(
                f"{self.process} needs {gib(need)} of memory ({self.largest()}), and has {gib(room.most)}: {room.what}",
                self._remedy(room, keys),
            )
        if self.peak > room.now:
            log.warning(
                "%s needs up to %s of memory (%s), %s are free for it now",
                self,
                gib(self.peak),
                self.largest(),
                gib(room.now),
            )

    def _remedy(self, room: Room, keys: str) -> str:
        held = self._of("always")
        more = f"raise resources.memory to {self.peak / _GIB:.1f} or more" if room.asked else "take a larger machine"
        if held > room.most:
            # bfloat16 takes half of it at best.
            other = "set base.dtype to bfloat16" if held <= 2 * room.most else "take a smaller base"
            return f"{more}, or {other}: {gib(held)} are held whatever the settings"
        return f"lower {keys}, or {more}"

    def __str__(self) -> str:
        return self.process

    def _of(self, when: When) -> int:
        return sum(part.bytes for part in self.parts if part.when == when)


def gib(size: int) -> str:
    """Write a size in words: GiB, or MiB if it is small."""
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.1f} MiB"
