"""The folders that zfleet uses by default."""

from __future__ import annotations

import os
from pathlib import Path

TRAIN_FOLDER = "runs/train"
REGISTRY_FOLDER = "runs/registry"
KEYS_FILE = "runs/keys/keys.db"
"""Relative to the folder in which a command runs."""


def cache_root() -> Path:
    """Return the folder of factors and the lab base: ``$ZFLEET_CACHE``, else ``~/.cache/zfleet``. It may not exist."""
    configured = os.environ.get("ZFLEET_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "zfleet"
