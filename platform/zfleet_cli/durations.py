"""Lengths of time, as people write them: ``90s``, ``15m``, ``12h``, ``30d``."""

from __future__ import annotations

import re

from zfleet.errors import SpecError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str, option: str) -> float:
    """Read a length of time, in seconds.

    Args:
        text: A whole number and its unit: s, m, h or d.
        option: The option that it is given for.

    Raises:
        SpecError: It is none.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if found is None:
        raise SpecError(f"{option} is {text!r}", "write a number and its unit: 90s, 15m, 12h or 30d")
    return float(found[1]) * _SECONDS[found[2]]
