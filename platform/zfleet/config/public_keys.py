"""Public keys in specs: as the path of a PEM file, or as its text, which goes where the file does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zfleet.errors import SpecError
from zfleet.files import read_or

PUBLIC_KEYS = "PEM files (or their text) of public keys or of authorities' certificates, one of which signed a version"
_MARK = "-----BEGIN "
_REMEDY = "give the PEM of a public key or of certificates; never a private key"


def refuse_private_keys(keys: Sequence[str]) -> None:
    """Refuse the text of a private key without repeating it.

    Raises:
        ValueError: One is.
    """
    if any("PRIVATE KEY" in key for key in keys):
        raise ValueError("a private key stands where public keys belong: keep it secret, and make a new one")


def read_public_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the text of public keys that are given as paths or as text.

    Raises:
        SpecError: A file cannot be read, or contains no public key and no certificate.
    """
    return tuple(key if key.lstrip().startswith(_MARK) else _read(Path(key)) for key in keys)


def _read(path: Path) -> str:
    data = read_or(
        path, lambda error: SpecError(f"public key {path} cannot be read: {error.strerror}", "check the path")
    )
    text = data.decode(errors="replace")
    if "PRIVATE KEY" in text:
        raise SpecError(f"{path} has a private key", _REMEDY)
    if _MARK not in text:
        raise SpecError(f"{path} is no PEM file", _REMEDY)
    return text
