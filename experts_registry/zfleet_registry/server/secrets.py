"""Passwords of a registry's server: made once, in files that only their owner reads, never on a command line."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from zfleet.errors import RegistryError

FOLDER = "secrets"


def secret(folder: Path, name: str) -> str:
    """Return a password, which is made the first time.

    Args:
        folder: The folder of the registry.
        name: The password's file in ``secrets/``.

    Raises:
        RegistryError: The file can be read by others.
    """
    file = folder / FOLDER / name
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24))
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        raise RegistryError(f"{file} has a password, and others may read it (mode {mode:o})", f"chmod 600 {file}")
    return file.read_text().strip()


def write_private(file: Path, text: str) -> Path:
    """Write a file of mode 600, whole or not at all."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    return temporary.replace(file)
