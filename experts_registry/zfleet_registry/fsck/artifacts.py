"""Artifacts that are missing, truncated, changed, too large, or not what the version's record says."""

from __future__ import annotations

from collections.abc import Iterator

from zfleet.errors import RegistryError, RegistryUnreachable
from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault
from zfleet_registry.references import model_name, split_slug
from zfleet_registry.version_files import REMEDY


def find(contents: Contents) -> Iterator[Fault]:
    """Load every version."""
    for version in contents.versions:
        found = contents.loaded(version)
        if isinstance(found, RegistryUnreachable):
            raise found
        if isinstance(found, RegistryError):
            yield Fault("artifact", version.qualified, found.message, found.remedy)
            continue
        model = model_name(version.base_slug, version.name)
        if (name := contents.name_in_file(version)) not in ("", model):
            yield Fault("artifact", version.qualified, f"its file is of {name}", REMEDY)
        if not version.provenance.base.startswith(split_slug(version.base_slug)[1]):
            what = f"its z is of base {version.provenance.base[:12]}, which is not {version.base_slug}"
            yield Fault("artifact", version.qualified, what, REMEDY)
