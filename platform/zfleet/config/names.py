"""Words that specs, jobs, the registry and serving share: expert names, references to versions, coefficients.

Each stands here once. Nothing heavy is imported, so that specs load fast.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
"""What experts and mixtures may be called."""
LONGEST = 100
"""Characters; with a base's name before it, it still fits where MLflow keeps it."""
AUTO = "auto"
"""What a request says to let the service choose."""
CHAMPION = "champion"
"""The alias that a bare name means."""
ALIAS = r"[A-Za-z0-9][A-Za-z0-9_-]*"
REFERENCE = re.compile(rf"(?P<name>{NAME})(?:/(?P<version>[1-9][0-9]*)|@(?P<alias>{ALIAS}))?")
"""A reference to an expert: ``math``, ``math/3`` or ``math@champion``; a base may be part of the name."""

Alpha = float | tuple[float, ...] | Mapping[str, float]
"""A mixing coefficient: one number, one per transformer layer, or one per matrix or kind of matrix, by its name."""

_BORDER = re.compile(r"-[0-9a-f]{8}\.")


def expert_name(name: str) -> str:
    """Return the name if an expert can have it.

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
