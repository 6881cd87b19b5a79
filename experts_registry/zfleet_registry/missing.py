"""Errors about experts, versions and aliases that do not exist; they name those that do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from zfleet.errors import ExpertNotFound
from zfleet_registry.version import ExpertVersion

Existing = Callable[[], Sequence[ExpertVersion] | None]
"""Lists the versions to name; returns None for readers that must not learn them."""


def no_expert(existing: Existing, name: str, slug: str, address: str) -> ExpertNotFound:
    """Return the error for an expert that a base does not have."""
    missing = f"base {slug} has no expert {name!r} in {address}"
    versions = existing()
    if versions is None:
        return ExpertNotFound(missing)
    names = sorted({version.name for version in versions if version.base_slug == slug})
    near = difflib.get_close_matches(name, names, n=3)
    others = sorted({version.base_slug for version in versions if version.name == name})
    remedy = f"did you mean {' or '.join(near)}?" if near else f"experts of {slug}: {_some(names)}"
    if others:
        remedy += f"; {name} exists for the base {_some(others)}"
    return ExpertNotFound(missing, remedy)


def no_version(existing: Existing, what: str, name: str, slug: str) -> ExpertNotFound:
    """Return the error for a version or an alias that an expert does not have.

    Args:
        existing: Lists the versions to name.
        what: What is missing, in words.
        name: The expert.
        slug: Its base.
    """
    missing = f"expert {name!r} of {slug} has no {what}"
    everything = existing()
    if everything is None:
        return ExpertNotFound(missing)
    versions = [version for version in everything if (version.base_slug, version.name) == (slug, name)]
    aliases = [f"{alias} (version {version.version})" for version in versions for alias in version.aliases]
    numbers = [str(version.version) for version in reversed(versions)]
    return ExpertNotFound(missing, f"versions: {_some(numbers)}; aliases: {_some(aliases)}")


def _some(items: Sequence[str]) -> str:
    """Name the first ten items, and the number of the others."""
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return ", ".join(items[:10]) + more if items else "none"
