"""Compare what zfleet needs with what a Python has.

A submitted job runs this before all else, on whatever the cluster has: only the standard library and ``packaging``,
which Ray brings, are imported here, and nothing that is newer than Python 3.8.
"""

from __future__ import annotations

import sys
from importlib import metadata

from zfleet_jobs.submit.names import PROJECT


def unmet_requirements() -> list[str]:
    """Return what this Python lacks: ``typer>=0.20 (missing)``, ``ray>=2.60 (2.40.0)``."""
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return ["packaging (missing)"]
    unmet = []
    needed, python = metadata.metadata(PROJECT)["Requires-Python"], ".".join(map(str, sys.version_info[:3]))
    if not SpecifierSet(needed).contains(python):
        unmet.append(f"python{needed} ({python})")
    for requirement in map(Requirement, metadata.requires(PROJECT) or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{requirement.name}{requirement.specifier} (missing)")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name}{requirement.specifier} ({version})")
    return unmet


def check_requirements() -> None:
    """End the process with an error and a remedy if this Python lacks something that zfleet needs."""
    unmet = unmet_requirements()
    if unmet:
        print(
            f"error: zfleet does not run in the cluster's Python, {sys.executable}: {', '.join(unmet)}\n"
            "remedy: start Ray on all nodes in an environment with zfleet's dependencies, whose `python` is the first "
            "on PATH",
            file=sys.stderr,
        )
        sys.exit(1)
