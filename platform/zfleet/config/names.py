"""What experts and mixtures may be called: specs ask before anything is trained, the registry before it stores one."""

from __future__ import annotations

import re

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
LONGEST = 100
"""Characters; with a base's name before it, it still fits where MLflow keeps it."""
AUTO = "auto"
"""What a request says to let the service choose."""

_BORDER = re.compile(r"-[0-9a-f]{8}\.")


def expert_name(name: str) -> str:
    """The name, if an expert can have it.

    Raises:
        ValueError: It holds other characters, is too long, is reserved, or reads like one qualified by a base.
    """
    if not re.fullmatch(NAME, name) or len(name) > LONGEST:
        raise ValueError(
            f"use letters, digits, '_', '.' and '-', a letter or digit first, at most {LONGEST} characters"
        )
    if name == AUTO:
        raise ValueError("it is reserved: requests say it to let the service choose; use another name, such as math")
    if _BORDER.search(name):
        raise ValueError("it reads like one qualified by a base; use the expert's own name, such as math")
    return name
