"""The bookkeeping of the z table: a fixed number of rows, the identity in row 0, least recently used out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.engine.contract import BASE_Z
from zfleet.errors import UnknownZ, WrongZ


@dataclass(eq=False)
class ZEntry:
    """A known z, and its use.

    Attributes:
        digest: The digest of the z.
        flat: [R] float32, on the host.
        row: Its row in the table; None while it has none.
        users: Accepted requests with this z that have not ended.
        pins: Answers that run on its row now.
        dropped: Whether ``drop_z`` was called; the z is then forgotten with its last user.
    """

    digest: str
    flat: Tensor
    row: int | None = None
    users: int = 0
    pins: int = 0
    dropped: bool = False


class ZTable:
    """Which z has which row, and every known z on the host.

    A row in use is pinned and never evicted. If every row is pinned, ``pin`` returns None and the request waits.
    """

    def __init__(self, size: int, rows: int) -> None:
        """Start with the base only.

        Args:
            size: R, the numbers in one z.
            rows: Rows of the table, the base's row included.
        """
        self.rows = rows
        self._free = list(range(rows - 1, 0, -1))
        self._base = ZEntry(BASE_Z, torch.ones(size), row=0)
        self._known: dict[str, ZEntry] = {BASE_Z: self._base}
        self._resident: OrderedDict[str, ZEntry] = OrderedDict()

    def fill(self, row: int, entry: ZEntry) -> None:
        """Called before a z gets a row, for tables whose rows hold the numbers."""

    def forget(self, digest: str) -> None:
        """Called after a z was forgotten."""

    @property
    def values(self) -> dict[str, Tensor]:
        """{digest: [R] float32} of every z that is known or still in use, without the base."""
        return {digest: entry.flat for digest, entry in self._known.items() if entry is not self._base}

    @property
    def known(self) -> int:
        """Number of z-vectors that are known and not dropped, without the base."""
        return sum(not entry.dropped for entry in self._known.values()) - 1

    @property
    def resident(self) -> int:
        """Number of z-vectors that have a row, without the base."""
        return len(self._resident)

    def knows(self, digest: str) -> bool:
        """Say whether a z was put and not dropped."""
        entry = self._known.get(digest)
        return entry is not None and not entry.dropped

    def put(self, digest: str, flat: Tensor) -> None:
        """Make a z known. No-op if it is known already."""
        entry = self._known.setdefault(digest, ZEntry(digest, flat))
        entry.dropped = False

    def drop(self, digest: str) -> None:
        """Forget a z, at once or with its last user.

        Raises:
            UnknownZ: The z is not known, was dropped already, or is the base's, which cannot be dropped.
        """
        entry = self._find(digest)
        if entry is self._base:
            raise UnknownZ("the base's z cannot be dropped", "drop an expert's z by its digest")
        entry.dropped = True
        self._forget_if_unused(entry)

    def use(self, digest: str, users: int = 1) -> ZEntry:
        """Count more users of a z.

        Raises:
            UnknownZ: The z was never put, or was dropped.
        """
        entry = self._find(digest)
        entry.users += users
        return entry

    def unuse(self, entry: ZEntry, users: int = 1) -> None:
        """Count fewer users of a z; one that was dropped is forgotten with its last user."""
        entry.users -= users
        self._forget_if_unused(entry)

    def pin(self, entry: ZEntry) -> int | None:
        """Return a row that holds this z until ``unpin``; None if every row is pinned by others."""
        if entry.row is None:
            row = self._free_row()
            if row is None:
                return None
            try:
                self.fill(row, entry)
            except BaseException:
                self._free.append(row)
                raise
            entry.row = row
            self._resident[entry.digest] = entry
        elif entry is not self._base:
            self._resident.move_to_end(entry.digest)
        entry.pins += 1
        return entry.row

    def unpin(self, entry: ZEntry) -> None:
        """Count one answer less on the z's row."""
        entry.pins -= 1

    def release_all(self) -> None:
        """Count no users and no pins, after a failure that ended every request."""
        for entry in list(self._known.values()):
            entry.users = entry.pins = 0
            self._forget_if_unused(entry)

    def _find(self, digest: str) -> ZEntry:
        entry = self._known.get(digest)
        if entry is None or entry.dropped:
            raise UnknownZ(f"this engine does not know z {digest[:12]!r}", "give it to put_z first")
        return entry

    def _free_row(self) -> int | None:
        if self._free:
            return self._free.pop()
        idle = next((entry for entry in self._resident.values() if entry.pins == 0), None)
        return None if idle is None else self._evict(idle)

    def _evict(self, entry: ZEntry) -> int:
        assert entry.row is not None
        row, entry.row = entry.row, None
        del self._resident[entry.digest]
        return row

    def _forget_if_unused(self, entry: ZEntry) -> None:
        if entry.dropped and entry.users == 0:
            del self._known[entry.digest]
            if entry.row is not None:
                self._free.append(self._evict(entry))
            self.forget(entry.digest)


class TensorZTable(ZTable):
    """A table with its rows on the device.

    Attributes:
        table: [rows, R] float32.
    """

    def __init__(self, size: int, rows: int, device: torch.device, digest: Callable[[Tensor], str]) -> None:
        """As ``ZTable``.

        Args:
            digest: Of the z that numbers [R] are.
        """
        super().__init__(size, rows)
        self.table = torch.ones(rows, size, device=device)
        self._digest = digest

    def fill(self, row: int, entry: ZEntry) -> None:
        """Copy the numbers into the row, and check that they are there.

        Raises:
            WrongZ: The row holds other numbers than those of the z.
        """
        self.table[row].copy_(entry.flat)
        found = self._digest(self.table[row])
        if found != entry.digest:
            raise WrongZ(
                f"row {row} of the engine's table should hold z {entry.digest[:12]}, and holds {found[:12]}",
                "nothing was answered under it; start the engine again, and see that its memory is sound",
            )
