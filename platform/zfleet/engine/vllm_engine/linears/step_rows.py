"""The z of each token in a step: a table of rows, and an index into it that is set once for each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zfleet.engine.contract import BASE_Z

_GATHERED_AT_ONCE = 4 * 2**20
"""The most numbers gathered at once for all layers. A longer step gathers layer by layer, which bounds its memory."""

StepLinear = Callable[[Tensor, Tensor | None], Tensor]
"""Maps x [T, n] and a bias to y [T, m], token t under its row of the step."""

Assignment = tuple[int, str]
"""Row of the table and digest of the z that one request runs under."""


class StepBuffers(nn.Module):
    """The buffers that a step sets, in place, before the model runs.

    Attributes:
        table: [rows, C] float32: z, or d of form ``delta``.
        index: Row of each token: [tokens] int64. Entries beyond the step's tokens may be any row.
    """

    table: Tensor
    index: Tensor

    def __init__(self, rows: int, columns: int, tokens: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(rows, columns, device=device), persistent=False)
        self.register_buffer("index", torch.zeros(tokens, dtype=torch.int64, device=device), persistent=False)


class StepRows:
    """The table of one worker process.

    Each request names its row and the z that belongs in it; a row is filled when its z changes. ``ZTable``, which
    assigns rows to requests, never reassigns a row while a request uses it.

    Attributes:
        known: {digest: z [R] float32}.
        mixed: Whether the current step has a row that is not the base's.
        alone: The digest that all rows of the current step share; None if they differ, or for the base.
        peak_requests: The most requests in one step so far.
        peak_distinct: The most different z in one step so far.
    """

    def __init__(self, buffers: StepBuffers, encode: Callable[[Tensor], Tensor], base: Tensor) -> None:
        """Start with the base in every row.

        Args:
            buffers: Table and index that the linears read.
            encode: Maps a z [R] float32 to a row of the table.
            base: The z of the base: [R] ones.
        """
        self.known: dict[str, Tensor] = {}
        self.mixed = False
        self.alone: str | None = None
        self.peak_requests = self.peak_distinct = 0
        self._buffers = buffers
        self._encode = encode
        self._base = base
        self._contents: list[str] = []
        self._tokens = 0
        # Steps that decode the same requests have the same rows, so that gathered rows and their cuts serve again.
        self._index: NDArray[np.int64] = np.empty(0, np.int64)
        self._gathered: Tensor | None = None
        self._cuts: dict[tuple[int, int], Tensor] = {}
        self.refill()

    def refill(self) -> None:
        """Fill every row again at its next use, because the meaning of the table's columns has changed."""
        self._buffers.table[:] = self._encode(self._base)
        self._contents = [BASE_Z] * self._buffers.table.shape[0]
        self._discard_gathered()

    def begin(self, assignments: Sequence[Assignment], counts: NDArray[np.int32]) -> None:
        """Start a step.

        Args:
            assignments: One for each request of the step.
            counts: How many tokens each request has in it.

        Raises:
            RuntimeError: Two requests name different z for one row: a bug in assigning rows.
        """
        contents = dict(assignments)
        if any(contents[row] != digest for row, digest in assignments):
            raise RuntimeError(f"two z on one row in one step: {sorted(set(assignments))}")
        for row, digest in contents.items():
            if self._contents[row] != digest:
                self._buffers.table[row] = self._encode(self.known[digest])
                self._contents[row] = digest
                self._discard_gathered()
        rows = np.fromiter((row for row, _ in assignments), np.int64, len(assignments))
        distinct = len(np.unique(rows))
        self.mixed = bool(rows.any())
        self.alone = assignments[0][1] if self.mixed and distinct == 1 else None
        index = np.repeat(rows, counts)
        if not np.array_equal(index, self._index):
            self._index = index
            self._discard_gathered()
        self._tokens = len(index)
        self._buffers.index[: self._tokens] = torch.from_numpy(index)
        self.peak_requests = max(self.peak_requests, len(assignments))
        self.peak_distinct = max(self.peak_distinct, distinct)

    def end(self) -> None:
        """End a step. Passes without requests, such as warming up, then run as the base."""
        self.mixed, self.alone = False, None
        self._buffers.index.zero_()

    def of(self, columns: slice) -> Tensor:
        """Return some columns of each token's row: [T, c] float32."""
        cut = columns.start, columns.stop
        if cut in self._cuts:
            return self._cuts[cut]
        table, index = self._buffers.table, self._buffers.index[: self._tokens]
        if self._tokens * table.shape[1] > _GATHERED_AT_ONCE:
            return table[:, columns].index_select(0, index)
        if self._gathered is None:
            self._gathered = table.index_select(0, index)
        self._cuts[cut] = self._gathered[:, columns]
        return self._cuts[cut]

    def _discard_gathered(self) -> None:
        self._gathered = None
        self._cuts.clear()
