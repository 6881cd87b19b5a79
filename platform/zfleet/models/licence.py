"""The licence of a base, as its own files say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from zfleet.models.gguf.folders import ORIGIN, read_origin

_CARD = "README.md"
_FENCE = "---"


def licence_of(folder: Path) -> str:
    """Return the licence that a base's folder names; empty if it names none.

    A converted base has it in the record of its GGUF file. Others have it in the header of their model card, as Hugging
    Face writes it: ``license`` is an identifier, and ``license_name`` the name of another licence.

    Raises:
        BaseModelError: The record of a converted base is damaged.
    """
    if (folder / ORIGIN).exists():
        return read_origin(folder).licence or ""
    try:
        text = (folder / _CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    header = _header(text)
    named = header.get("license_name") if header.get("license") == "other" else header.get("license")
    return named if isinstance(named, str) else ""


def _header(card: str) -> dict[str, Any]:
    """Return the YAML between the first two lines of three dashes."""
    if not card.startswith(f"{_FENCE}\n"):
        return {}
    try:
        header = yaml.safe_load(card.removeprefix(_FENCE).partition(f"\n{_FENCE}")[0])
    except yaml.YAMLError:
        return {}
    return header if isinstance(header, dict) else {}
