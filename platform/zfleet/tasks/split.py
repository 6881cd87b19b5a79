"""Which side of a split a prompt falls on."""

from __future__ import annotations

import hashlib


def held_out(prompt: str, fraction: float) -> bool:
    """Whether a prompt is held out. It depends on the prompt alone: rows that are added later move no other."""
    digest = hashlib.sha256(prompt.strip().encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
