"""Entries of logs whose commands were cut short before they sealed them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from zfleet.errors import RegistryError
from zfleet_registry.aliases import Aliases
from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault


def find(contents: Contents) -> Iterator[Fault]:
    """Find entries without a seal. This must be the first check: reading a log seals its entries."""
    for expert in contents.experts:
        for number in expert.aliases.log.unsealed():
            what = "the command ended before it sealed its entry"
            yield Fault("log", f"{expert.name}, entry {number}", what, mend=partial(_seal, expert.aliases, number))


def _seal(aliases: Aliases, number: int) -> str:
    for _ in aliases.log.entries():
        pass
    # Whoever may not write the log reads it all the same, and stores no seal.
    if number in aliases.log.unsealed():
        raise RegistryError("the log cannot be written", "have somebody with the right to promote repair it")
    return "sealed it"
