"""Traffic that services do not have as the log has it, or that names an alias which does not exist."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from zfleet.errors import RegistryError
from zfleet_registry.aliases import Aliases
from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault
from zfleet_registry.promotion.traffic import Traffic, follow_traffic, logged_traffic, traffic_of


def find(contents: Contents) -> Iterator[Fault]:
    """Compare the traffic of every expert with its log and its aliases."""
    for expert in contents.experts:
        logged = logged_traffic(expert.aliases)
        if logged is not None:
            yield from _of(expert.aliases, logged)


def _of(aliases: Aliases, logged: Traffic) -> Iterator[Fault]:
    try:
        present: Traffic | None = traffic_of(aliases)
    except RegistryError:
        present = None
    if present != logged:
        what = "the traffic that services read is not what the log has"
        yield Fault("traffic", aliases.expert, what, mend=partial(_follow, aliases))
    named = {*logged.shares, *filter(None, [logged.shadow])}
    for alias in sorted(named - aliases.present().keys()):
        remedy = f"set it without: zfleet experts traffic {aliases.expert} champion=100 --shadow ''"
        yield Fault("traffic", aliases.expert, f"it names the alias {alias}, which does not exist", remedy)


def _follow(aliases: Aliases) -> str:
    follow_traffic(aliases)
    return "stored it where services read it"
