"""Store texts of any length in MLflow's tags, all with one prefix, and read them again."""

from __future__ import annotations

from collections.abc import Mapping

PREFIX = "zfleet."
# Tag values are limited (100,000 characters in MLflow 3, less in older servers and some databases). So long values,
# above all the spec, are split into numbered tags: zfleet.spec, zfleet.spec.1, ...
_CHUNK = 4000


def split_tags(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that hold texts, whose keys have no dots."""
    tags = {}
    for key, text in texts.items():
        for index, start in enumerate(range(0, len(text), _CHUNK)):
            tags[PREFIX + (f"{key}.{index}" if index else key)] = text[start : start + _CHUNK]
    return tags


def joined_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the texts that ``split_tags`` stored. Other programs' tags are ignored."""
    texts = {}
    for key in tags:
        if key.startswith(PREFIX) and "." not in (short := key.removeprefix(PREFIX)):
            texts[short] = tags[key]
            index = 1
            while (more := tags.get(f"{key}.{index}")) is not None:
                texts[short] += more
                index += 1
    return texts
