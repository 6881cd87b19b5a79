"""The hash chain: how an entry is sealed, and what a change to an older entry breaks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from zfleet_registry.log.entry import Action, Entry, Seal, canonical, sealed_values
from zfleet_registry.log.state import State


@dataclass(frozen=True)
class Break:
    """The first entry at which a chain does not hold.

    Attributes:
        number: The entry.
        reason: What is wrong with it.
    """

    number: int
    reason: str


def seal(number: int, action: Action, before: Entry | None) -> Entry:
    """Tie an action to the entry before it.

    Args:
        number: The number of the new entry.
        action: What a command recorded.
        before: The entry before; None for the first.
    """
    state = State() if before is None else before.seal.state
    at = action.time if before is None else max(action.time, before.seal.at)
    after, effective = state.after(number, action)
    unsigned = Seal(at, "" if before is None else before.seal.sha256, effective, after, "")
    digest = hashlib.sha256(canonical(sealed_values(number, action, unsigned)).encode()).hexdigest()
    return Entry(number, action, replace(unsigned, sha256=digest))


def verify(entries: Iterable[Entry | Break]) -> Break | None:
    """Check a whole chain.

    Args:
        entries: All entries in order; a ``Break`` for one that cannot be read.

    Returns:
        The first entry that was changed, removed or put in between; None if the chain holds. Entries that were removed
        at the end leave no trace in the chain itself: compare the newest sha256 with one that was noted elsewhere.
    """
    before: Entry | None = None
    for expected, entry in enumerate(entries, start=1):
        if entry.number != expected:
            return Break(expected, "it was removed")
        if isinstance(entry, Break):
            return entry
        if entry != seal(entry.number, entry.action, before):
            return Break(entry.number, "it, or what it is tied to, was changed")
        before = entry
    return None
