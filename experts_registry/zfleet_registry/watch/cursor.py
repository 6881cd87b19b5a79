"""A cursor: how far a watcher has read each log."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from zfleet.errors import RegistryError

_BEGINNING = "beginning"


@dataclass(frozen=True)
class Cursor:
    """How far a watcher has read. Entries of a log are numbered without gaps, so no clock matters.

    Attributes:
        entries: {expert, qualified by its base: the number of the newest entry that was read}.
    """

    entries: Mapping[str, int] = field(default_factory=dict)

    def to_text(self) -> str:
        """Return one word, for a command line: some bytes for each expert."""
        if not self.entries:
            return _BEGINNING
        plain = json.dumps(self.entries, sort_keys=True, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(zlib.compress(plain, 9)).decode()

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        """Read what ``to_text`` wrote; ``beginning`` is before every entry.

        Raises:
            RegistryError: The text is something else.
        """
        if text == _BEGINNING:
            return cls()
        try:
            unpacked = zlib.decompressobj()
            plain = unpacked.decompress(base64.b64decode(text, altchars=b"-_", validate=True), _LONGEST)
            entries = json.loads(plain)
            if not unpacked.eof or not isinstance(entries, dict) or not all(map(_is_count, entries.values())):
                raise ValueError("it is no cursor")
        except (ValueError, zlib.error) as error:
            shown = text[:100]
            raise RegistryError(
                f"cursor {shown!r} cannot be read",
                f"give what `zfleet experts watch --json` printed as `cursor`, or {_BEGINNING}",
            ) from error
        return cls(entries)


_LONGEST = 2**26
"""Bytes of an unpacked cursor: half a million experts."""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
