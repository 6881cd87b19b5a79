"""The z of a decoding batch, row by row, of which each step copies only the rows that changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zfleet.engine.z_table import TensorZTable, ZEntry


class BoundRows:
    """Holds z [B, R] of the batch: a batch differs from the last one in few rows."""

    def __init__(self, table: TensorZTable) -> None:
        self._table = table
        self._rows = table.table[:0]
        self._digests: list[str] = []

    def of(self, entries: Sequence[ZEntry]) -> Tensor | None:
        """Return z [B, R], which the next call changes; [1, R] if all rows have one z; None if that is the base's."""
        digests = [entry.digest for entry in entries]
        if digests.count(digests[0]) == len(digests):
            row = entries[0].row
            return self._table.table[row : row + 1] if row else None
        if len(entries) > len(self._rows):
            self._rows = self._table.table.new_empty(max(len(entries), 2 * len(self._rows)), self._table.table.shape[1])
            self._digests = []
        held = [*self._digests, *[""] * (len(digests) - len(self._digests))]
        changed = [place for place, digest in enumerate(digests) if digest != held[place]]
        if changed:
            # Until the copy is complete, the rows hold neither.
            self._digests = []
            device = self._rows.device
            sources = torch.tensor([entries[place].row for place in changed], device=device)
            self._rows[torch.tensor(changed, device=device)] = self._table.table[sources]
        self._digests = digests + held[len(digests) :]
        return self._rows[: len(digests)]
