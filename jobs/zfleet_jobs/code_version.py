"""Which code made something: recorded with every registered version."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def code_version() -> str:
    """zfleet's version, and the commit where it runs from a checkout (``+dirty`` when files differ from it)."""
    release = version("zfleet")
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release} ({found.stdout.strip()})"
