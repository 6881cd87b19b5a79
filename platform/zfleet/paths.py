"""Where zfleet keeps what it can build again: factors, the lab base."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder in ``ZFLEET_CACHE``, else ``~/.cache/zfleet``; it need not exist yet."""
    configured = os.environ.get("ZFLEET_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "zfleet"
