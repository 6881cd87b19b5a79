"""Which code made something: recorded with every registered version."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from zfleet_cluster.sent_code import CODE_VERSION, job_metadata


@cache
def code_version() -> str:
    """Return zfleet's version and, in a checkout, its commit (``+dirty`` if files differ from it).

    In a submitted job it is that of the code that was sent, which is in no checkout.
    """
    if (sent := job_metadata().get(CODE_VERSION)) is not None:
        return sent
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
