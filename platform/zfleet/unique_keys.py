"""JSON objects that give each key once; Python's own reader silently takes the last."""

from __future__ import annotations

from typing import Any


class RepeatedKey(ValueError):
    """An object gives a key twice; names it and both values."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs: an ``object_pairs_hook`` for ``json.loads``.

    Raises:
        RepeatedKey: A key stands twice in it.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise RepeatedKey(f"`{key}` is given twice, as {values[key]!r:.40} and {value!r:.40}")
            values[key] = value
    return found
