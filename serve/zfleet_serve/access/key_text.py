"""Secrets of API keys: how they are made, read and hashed.

The hash is the standard library's scrypt. A secret has 256 random bits, which no hash needs to slow down; a slow one
also protects secrets that a later version or an import may let people choose, and it needs no package.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

_TEXT = re.compile(r"zf-([0-9a-f]{12})\.([A-Za-z0-9_-]{43})")
IN_TEXT = re.compile(r"zf-[0-9a-f]{12}\.[A-Za-z0-9_-]{8}")
"""The beginning of a key inside another text, such as a URL."""
_COST, _BLOCK, _PARALLEL = 2**14, 8, 1
"""scrypt's N, r and p: 16 MiB, tens of milliseconds. They are stored with each hash, so they may change."""
_MEMORY = 64 * 2**20


@dataclass(frozen=True)
class KeyText:
    """A key as clients send it: ``zf-ID.SECRET``.

    Attributes:
        id: Its public part.
        secret: Its secret part, which no ``repr`` shows.
    """

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyText({self.id!r})"

    def reveal(self) -> str:
        """Return the whole key, for its owner's eyes."""
        return f"zf-{self.id}.{self.secret}"


def new_key() -> KeyText:
    """Make a key at random: an id of 48 bits, a secret of 256."""
    return KeyText(secrets.token_hex(6), secrets.token_urlsafe(32))


def parse_key(text: str) -> KeyText | None:
    """Read a key; None if the text is none."""
    found = _TEXT.fullmatch(text)
    return KeyText(found[1], found[2]) if found else None


def slow_hash(secret: str) -> str:
    """Hash a secret with a new salt: ``scrypt$N$r$p$salt$hash``, the last two in base64."""
    salt = secrets.token_bytes(16)
    parts = (_base64(salt), _base64(_scrypt(secret, salt, _COST, _BLOCK, _PARALLEL)))
    return f"scrypt${_COST}${_BLOCK}${_PARALLEL}${'$'.join(parts)}"


def matches(secret: str, stored: str) -> bool:
    """Return whether a secret has this hash. The comparison takes the same time wherever the two differ."""
    _, cost, block, parallel, salt, expected = stored.split("$")
    found = _scrypt(secret, base64.b64decode(salt), int(cost), int(block), int(parallel))
    return hmac.compare_digest(found, base64.b64decode(expected))


def _scrypt(secret: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=salt, n=cost, r=block, p=parallel, maxmem=_MEMORY, dklen=32)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
