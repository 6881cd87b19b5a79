"""Which z each token of a step uses: a table of rows, and an index into it that is set once a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zfleet.engine.contract import BASE_Z

_GATHERED_AT_ONCE = 4 * 2**20
"""Numbers gathered for all layers in one go; a longer step gathers layer by layer, so that its memory is bounded."""

Assignment = tuple[int, str]
"""Row of the table and digest of the z that one request runs under."""


class StepRows:
    """The rows of one process that computes.

    Requests say which row is theirs and which z belongs in it; the row is filled when that changes. Who gives
    rows to requests (``ZTable``) never gives a row away while a request uses it.

    Attributes:
        known: {digest: z [R]}, in the order of the columns.
        mixed: Whether the step under way has a row that is not the base's.
        peak_requests: The most requests in one step so far.
        peak_distinct: The most different z in one step so far.
    """

    def __init__(self, width: int, rows: int, encode: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Start with the base in every row.

        Args:
            width: C, numbers in a row of the table.
            rows: Rows of the table, the base's included.
            encode: z [R] float32 to a row [C] float32.
            device: Where the table lies.
        """
        self.known: dict[str, Tensor] = {}
        self.mixed = False
        self.peak_requests = self.peak_distinct = 0
        self._encode = encode
        self._table = torch.empty(rows, width, device=device)
        self._held = [BASE_Z] * rows
        self._index = torch.zeros(0, dtype=torch.int64, device=device)
        self._gathered: Tensor | None = None

    def fill_base(self, base: Tensor) -> None:
        """Put the base's z [R] into every row: at the start, and when the meaning of the columns changed."""
        self._table[:] = self._encode(base)
        self._held = [BASE_Z] * len(self._held)

    def begin(self, assignments: Sequence[Assignment], counts: NDArray[np.int32]) -> None:
        """Start a step.

        Args:
            assignments: One for each request of the step.
            counts: How many tokens each request has in it.
        """
        for row, digest in assignments:
            if self._held[row] != digest:
                self._table[row] = self._encode(self.known[digest])
                self._held[row] = digest
        rows = np.fromiter((row for row, _ in assignments), np.int64, len(assignments))
        self.mixed = bool(rows.any())
        self._gathered = None
        if self.mixed:
            self._index = torch.from_numpy(np.repeat(rows, counts)).to(self._table.device)
        self.peak_requests = max(self.peak_requests, len(assignments))
        self.peak_distinct = max(self.peak_distinct, len(np.unique(rows)))

    def end(self) -> None:
        """After a step: passes that no request asked for, such as warming up, are the base's."""
        self.mixed = False

    def of(self, columns: slice) -> Tensor:
        """The row of each token of the step, cut to some columns: [T, c] float32."""
        if len(self._index) * self._table.shape[1] > _GATHERED_AT_ONCE:
            return self._table[:, columns].index_select(0, self._index)
        if self._gathered is None:
            self._gathered = self._table.index_select(0, self._index)
        return self._gathered[:, columns]
