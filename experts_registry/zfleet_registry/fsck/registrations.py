"""Versions whose process ended before it recorded them in the log."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from zfleet_registry.fsck.contents import Contents, Expert
from zfleet_registry.fsck.fault import Fault
from zfleet_registry.log import Action
from zfleet_registry.version import ExpertVersion


def find(contents: Contents) -> Iterator[Fault]:
    """Find versions that the log does not have."""
    for expert in contents.experts:
        for version in expert.versions:
            if version.version not in expert.registered:
                mend = partial(_record, expert, version)
                yield Fault("log", version.qualified, "the log has no entry of its registration", mend=mend)


def _record(expert: Expert, version: ExpertVersion) -> str:
    registered = f"{version.created:%Y-%m-%d %H:%M:%S} UTC"
    data = {"z_digest": version.z_digest, "artifact_sha256": version.artifact_sha256}
    why = f"recorded by fsck; it was registered at {registered}"
    entry = expert.aliases.log.append(Action("register", expert.name, version=version.version, why=why, data=data))
    return f"recorded it as entry {entry.number}"
