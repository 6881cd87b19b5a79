"""The fake engine's table of z rows: pins, and least recently used out."""

from __future__ import annotations

from collections.abc import Collection

from zfleet.engine.contract import BASE_Z


class FakeTable:
    """Which z is in which row, and how many answers use it. Row 0 is the base's.

    Args:
        size: Rows, row 0 included.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._rows: list[str | None] = [BASE_Z] + [None] * (size - 1)
        self._pins = [0] * size
        self._used = [0] * size
        self._clock = 0

    @property
    def resident(self) -> int:
        """Number of z-vectors in the table, without row 0."""
        return sum(content is not None for content in self._rows[1:])

    def content(self, row: int) -> str:
        """Return the digest of the z in a pinned row."""
        content = self._rows[row]
        assert content is not None, f"row {row} is empty"
        return content

    def pin(self, digest: str) -> int | None:
        """Return the row of a z, loaded if it had none; None while every row is in use."""
        if digest in self._rows:
            row = self._rows.index(digest)
        else:
            free = [row for row in range(1, self.size) if not self._pins[row]]
            if not free:
                return None
            row = min(free, key=lambda row: (self._rows[row] is not None, self._used[row]))
            self._rows[row] = digest
        self._clock += 1
        self._used[row] = self._clock
        self._pins[row] += 1
        return row

    def unpin(self, row: int, *, keep: bool) -> None:
        """Count one answer less on a row; a z that was dropped meanwhile leaves with the last one."""
        self._pins[row] -= 1
        if row and not keep and not self._pins[row]:
            self._rows[row] = None

    def unpin_all(self, known: Collection[str]) -> None:
        """Free every row from its answers; z-vectors that were dropped meanwhile leave."""
        self._pins = [0] * self.size
        for digest in set(self._rows[1:]) - {None, *known}:
            self.forget(str(digest))

    def forget(self, digest: str) -> None:
        """Empty the row of a z that no answer uses."""
        for row in range(1, self.size):
            if self._rows[row] == digest and not self._pins[row]:
                self._rows[row] = None
