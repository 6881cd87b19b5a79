"""Run all checks. A fault must be found twice: a registration that is under way looks like one that was cut short."""

from __future__ import annotations

import time
from dataclasses import dataclass

from zfleet.errors import RegistryError, RegistryUnreachable
from zfleet_registry.connect import Connection
from zfleet_registry.fsck import (
    aliases,
    artifacts,
    chain,
    layouts,
    parents,
    records,
    registrations,
    runs,
    seals,
    traffic,
    uploads,
)
from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault

SETTLE_SECONDS = 1.0
"""How long a fault must last to be one."""

# In the order in which they are mended: later ones rely on what earlier ones put right.
_CHECKS = (
    seals.find,
    records.find,
    registrations.find,
    runs.find,
    aliases.find,
    traffic.find,
    artifacts.find,
    layouts.find,
    uploads.find,
    parents.find,
    chain.find,
)


@dataclass(frozen=True)
class Result:
    """A fault that was found.

    Attributes:
        check: The kind of fault.
        where: What it is about.
        fault: What is wrong.
        mended: Whether it is not wrong any more.
        then: What was done, or what a person can do.
    """

    check: str
    where: str
    fault: str
    mended: bool
    then: str


def check_registry(connection: Connection, repair: bool = False) -> list[Result]:
    """Find all faults of a registry.

    Args:
        connection: The registry.
        repair: Mend those that can be mended.

    Raises:
        RegistryUnreachable: The registry does not answer.
    """
    results: list[Result] = []
    contents = Contents(connection)
    for find in _CHECKS:
        if not (faults := set(find(contents))):
            continue
        time.sleep(SETTLE_SECONDS)
        contents = Contents(connection)
        lasting = [fault for fault in find(contents) if fault in faults]
        results += [_mended(fault) if repair else _found(fault) for fault in lasting]
        if repair:
            contents = Contents(connection)
    return results


def _found(fault: Fault) -> Result:
    return Result(fault.check, fault.where, fault.what, False, fault.remedy)


def _mended(fault: Fault) -> Result:
    if fault.mend is None:
        return _found(fault)
    try:
        return Result(fault.check, fault.where, fault.what, True, fault.mend())
    except RegistryUnreachable:
        raise
    except RegistryError as error:
        return Result(fault.check, fault.where, fault.what, False, str(error))
