"""Who runs this process, for records."""

from __future__ import annotations

import getpass
import os

from zfleet_registry.credentials import user_name


def current_user() -> str:
    """Return the user of the tracking server if one is set, otherwise the user of the operating system.

    Nothing proves this name: a server with authentication knows who wrote an entry, a file does not.
    """
    if name := user_name():
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container may run as a user without a name.
        return f"user {os.getuid()}"
