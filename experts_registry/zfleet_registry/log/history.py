"""Read a log for people: what each entry changed, and where aliases pointed at a moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from zfleet.errors import RegistryError
from zfleet_registry.log.entry import Entry
from zfleet_registry.log.state import State


@dataclass(frozen=True)
class Change:
    """An entry beside what held before it.

    Attributes:
        entry: The entry.
        version_before: Where its alias pointed before; None if nowhere, or if that is not known.
    """

    entry: Entry
    version_before: int | None

    @property
    def notes(self) -> str:
        """The reason, and what is unusual about the entry."""
        notes = [self.entry.action.why]
        if not self.entry.seal.effective:
            notes.append("no effect: another command was faster")
        if self.entry.clock_off:
            notes.append(f"its own clock said {self.entry.action.time:%Y-%m-%d %H:%M:%S}")
        return "; ".join(note for note in notes if note)


def changes(entries: Iterable[Entry]) -> list[Change]:
    """Pair each entry with the version that its alias had before."""
    before, found = State(), []
    for entry in entries:
        action = entry.action
        known = action.alias in before.aliases
        found.append(Change(entry, before.version_of(action.alias) if known else action.found))
        before = entry.seal.state
    return found


def parse_time(text: str) -> datetime:
    """Read a time in ISO 8601; without an offset it is UTC.

    Raises:
        RegistryError: The text is something else.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise RegistryError(
            f"time {text[:100]!r} cannot be read", "write it as 2030-01-31T12:00:00, in UTC or with an offset: +02:00"
        ) from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
