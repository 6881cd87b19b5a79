"""Refuse JSON objects that give a key twice; Python's own reader silently takes the last value."""

from __future__ import annotations

from typing import Any


class RepeatedKey(ValueError):
    """An object gives a key twice; the message names the key and both values."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object from its pairs: an ``object_pairs_hook`` for ``json.loads``.

    Raises:
        RepeatedKey: The object gives a key twice.
    """
    result = dict(pairs)
    if len(result) < len(pairs):
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise RepeatedKey(f"`{key}` is given twice, as {values[key]!r:.40} and {value!r:.40}")
            values[key] = value
    return result
