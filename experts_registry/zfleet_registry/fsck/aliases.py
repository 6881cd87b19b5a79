"""Aliases that point at nothing, or elsewhere than the log has them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from zfleet_registry.aliases import Aliases
from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault


def find(contents: Contents) -> Iterator[Fault]:
    """Find them, in MLflow and in the log."""
    for expert in contents.experts:
        known = expert.aliases.log.state.aliases
        for one in expert.aliases.mismatches():
            deleted = one.logged is not None and one.logged not in expert.numbers
            what = f"{one}{', a version that does not exist' if deleted else ''}"
            yield Fault("alias", expert.name, what, mend=partial(_repair, expert.aliases, one.alias))
        for alias, version in sorted(expert.aliases.present().items()):
            if version in expert.numbers:
                continue
            what = f"{alias} points at version {version}, which does not exist"
            if alias not in known:
                yield Fault("alias", expert.name, what, mend=partial(_remove, expert.aliases, alias))
            elif known[alias].version == version:
                yield Fault("alias", expert.name, what, mend=partial(_repair, expert.aliases, alias))


def _repair(aliases: Aliases, alias: str) -> str:
    return f"{aliases.repair(alias).action.sentence.partition(' ')[2]}"


def _remove(aliases: Aliases, alias: str) -> str:
    aliases.remove_unlogged(alias)
    return f"removed {alias}"
