"""Versions that are their own ancestors."""

from __future__ import annotations

from collections.abc import Iterator

from zfleet.errors import RegistryError
from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault
from zfleet_registry.lineage import lineage_of


def find(contents: Contents) -> Iterator[Fault]:
    """Find a cycle of parents."""
    versions = list(contents.versions)
    try:
        lineage_of(versions, versions)
    except RegistryError as error:
        yield Fault("parents", "lineage", error.message, error.remedy)
