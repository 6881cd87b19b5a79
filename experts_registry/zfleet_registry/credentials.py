"""Who a tracking server is told we are: from the environment, or from MLflow's file, which others must not read."""

from __future__ import annotations

import configparser
import os
import stat
from pathlib import Path

from zfleet.errors import AccessDenied

_USER = "MLFLOW_TRACKING_USERNAME"


def check_file() -> None:
    """Refuse MLflow's file of user and password, ``~/.mlflow/credentials``, if others can read it.

    Raises:
        AccessDenied: Says how to close it.
    """
    file = _file()
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessDenied(f"{file} has a password, and others may read it (mode {mode:o})", f"chmod 600 {file}")


def user_name() -> str | None:
    """Return the user that a tracking server is told, as MLflow finds it; None if none is set."""
    if name := os.environ.get(_USER):
        return name
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(_file())
    except (OSError, configparser.Error):
        return None
    return parser.get("mlflow", _USER.lower(), fallback=None)


def _file() -> Path:
    return Path("~/.mlflow/credentials").expanduser()
