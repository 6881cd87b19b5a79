"""Logs whose chain is broken. Nothing mends them: a chain that was written again proves nothing."""

from __future__ import annotations

from collections.abc import Iterator

from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault
from zfleet_registry.log import verify

_REMEDY = "compare it with a backup; nothing mends a chain, and a log that was written again would prove nothing"


def find(contents: Contents) -> Iterator[Fault]:
    """Verify the chain of every log."""
    for expert in contents.experts:
        if (broken := verify(expert.entries)) is not None:
            yield Fault("chain", f"{expert.name}, entry {broken.number}", broken.reason, _REMEDY)
