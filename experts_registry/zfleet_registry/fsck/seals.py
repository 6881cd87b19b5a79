"""Entries of logs whose commands were cut short before they sealed them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from zfleet_registry.aliases import Aliases
from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault


def find(contents: Contents) -> Iterator[Fault]:
    """Find entries without a seal. This must be the first check: reading a log seals its entries."""
    for expert in contents.experts:
        for number in expert.aliases.log.unsealed():
            what = "the command ended before it sealed its entry"
            yield Fault("log", f"{expert.name}, entry {number}", what, mend=partial(_seal, expert.aliases))


def _seal(aliases: Aliases) -> str:
    for _ in aliases.log.entries():
        pass
    return "sealed it"
