"""Which z each token of a step uses: a table of rows, and an index into it that is set once a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zfleet.engine.contract import BASE_Z

_GATHERED_AT_ONCE = 4 * 2**20
"""Numbers gathered for all layers in one go; a longer step gathers layer by layer, so that its memory is bounded."""

StepLinear = Callable[[Tensor, Tensor | None], Tensor]
"""x [T, n] and a bias to y [T, m], token t under the row that the step says."""

Assignment = tuple[int, str]
"""Row of the table and digest of the z that one request runs under."""


class StepBuffers(nn.Module):
    """What a step sets, in place, before the graph runs.

    Attributes:
        table: [rows, C] float32: z, or d of form ``delta``.
        index: Row of each token: [tokens] int64. Tokens beyond the step's may hold anything in range.
    """

    table: Tensor
    index: Tensor

    def __init__(self, rows: int, columns: int, tokens: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(rows, columns, device=device), persistent=False)
        self.register_buffer("index", torch.zeros(tokens, dtype=torch.int64, device=device), persistent=False)


class StepRows:
    """The rows of one process that computes.

    Requests say which row is theirs and which z belongs in it; the row is filled when that changes. Who gives
    rows to requests (``ZTable``) never gives a row away while a request uses it.

    Attributes:
        known: {digest: z [R] float32}.
        mixed: Whether the step under way has a row that is not the base's.
        alone: The digest that all rows of the step share, where they share one that is not the base's.
        peak_requests: The most requests in one step so far.
        peak_distinct: The most different z in one step so far.
    """

    def __init__(self, buffers: StepBuffers, encode: Callable[[Tensor], Tensor], base: Tensor) -> None:
        """Start with the base in every row.

        Args:
            buffers: Table and index, where the linears read them.
            encode: z [R] float32 to a row of the table.
            base: The base's z: [R] ones.
        """
        self.known: dict[str, Tensor] = {}
        self.mixed = False
        self.alone: str | None = None
        self.peak_requests = self.peak_distinct = 0
        self._buffers = buffers
        self._encode = encode
        self._base = base
        self._held: list[str] = []
        self._tokens = 0
        # Steps that decode the same requests have the same rows: what was gathered and cut for one serves the next.
        self._index: NDArray[np.int64] = np.empty(0, np.int64)
        self._gathered: Tensor | None = None
        self._cuts: dict[tuple[int, int], Tensor] = {}
        self.refill()

    def refill(self) -> None:
        """Fill every row anew at its next use: the meaning of the table's columns has changed."""
        self._buffers.table[:] = self._encode(self._base)
        self._held = [BASE_Z] * self._buffers.table.shape[0]
        self._gather_anew()

    def begin(self, assignments: Sequence[Assignment], counts: NDArray[np.int32]) -> None:
        """Start a step.

        Args:
            assignments: One for each request of the step.
            counts: How many tokens each request has in it.

        Raises:
            RuntimeError: Two requests put different z on one row: whoever gives rows away has failed.
        """
        wanted = dict(assignments)
        if any(wanted[row] != digest for row, digest in assignments):
            raise RuntimeError(f"two z on one row in one step: {sorted(set(assignments))}")
        for row, digest in wanted.items():
            if self._held[row] != digest:
                self._buffers.table[row] = self._encode(self.known[digest])
                self._held[row] = digest
                self._gather_anew()
        rows = np.fromiter((row for row, _ in assignments), np.int64, len(assignments))
        distinct = len(np.unique(rows))
        self.mixed = bool(rows.any())
        self.alone = assignments[0][1] if self.mixed and distinct == 1 else None
        index = np.repeat(rows, counts)
        if not np.array_equal(index, self._index):
            self._index = index
            self._gather_anew()
        self._tokens = len(index)
        self._buffers.index[: self._tokens] = torch.from_numpy(index)
        self.peak_requests = max(self.peak_requests, len(assignments))
        self.peak_distinct = max(self.peak_distinct, distinct)

    def end(self) -> None:
        """After a step: passes that no request asked for, such as warming up, are the base's."""
        self.mixed, self.alone = False, None
        self._buffers.index.zero_()

    def of(self, columns: slice) -> Tensor:
        """The row of each token of the step, cut to some columns: [T, c] float32."""
        place = columns.start, columns.stop
        if place in self._cuts:
            return self._cuts[place]
        table, index = self._buffers.table, self._buffers.index[: self._tokens]
        if self._tokens * table.shape[1] > _GATHERED_AT_ONCE:
            return table[:, columns].index_select(0, index)
        if self._gathered is None:
            self._gathered = table.index_select(0, index)
        self._cuts[place] = self._gathered[:, columns]
        return self._cuts[place]

    def _gather_anew(self) -> None:
        self._gathered = None
        self._cuts.clear()
