"""The z of each token in a step: a table of rows, and an index into it that is set once for each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zfleet.engine.contract import BASE_Z

_GATHERED_AT_ONCE = 4 * 2**20
"""The most numbers gathered at once for all layers. A longer step gathers layer by layer, which bounds its memory."""

StepLinear = Callable[[Tensor, Tensor | None], Tensor]
"""Maps x [T, n] and a bias to y [T, m], token t under its row of the step."""


class Assignment(NamedTuple):
    """What one request runs under.

    Attributes:
        row: Its row of the table.
        digest: The z in that row.
        exact: Whether form ``delta`` computes it with all directions. The other forms always do.
    """

    row: int
    digest: str
    exact: bool = True


class StepBuffers(nn.Module):
    """The buffers that a step sets, in place, before the model runs.

    Attributes:
        table: [rows, R] float32: the z.
        index: Row of each token: [tokens] int64. Entries beyond the step's tokens may be any row.
    """

    table: Tensor
    index: Tensor

    def __init__(self, rows: int, columns: int, tokens: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(rows, columns, device=device), persistent=False)
        self.register_buffer("index", torch.zeros(tokens, dtype=torch.int64, device=device), persistent=False)


class TokenRows:
    """The rows of some tokens of a step, gathered from a table when a linear asks for its columns.

    Steps that decode the same requests have the same rows, so that gathered rows and their cuts serve again.
    """

    def __init__(self, table: Tensor) -> None:
        """Gather from a table [rows, C], whose rows may change between steps."""
        self._table = table
        self._rows = np.empty(0, np.int64)
        self._index: Tensor | None = None
        self._gathered: Tensor | None = None
        self._cuts: dict[tuple[int, int], Tensor] = {}

    def begin(self, rows: NDArray[np.int64], changed: bool) -> None:
        """Start a step.

        Args:
            rows: Row of each token: [T].
            changed: Whether a row of the table has changed since the last step.
        """
        if changed or not np.array_equal(rows, self._rows):
            self._rows = rows
            self._index = self._gathered = None
            self._cuts.clear()

    def of(self, columns: slice) -> Tensor:
        """Return some columns of each token's row: [T, c] float32."""
        cut = columns.start, columns.stop
        if cut in self._cuts:
            return self._cuts[cut]
        if self._index is None:
            self._index = torch.from_numpy(self._rows).to(self._table.device)
        if len(self._rows) * self._table.shape[1] > _GATHERED_AT_ONCE:
            return self._table[:, columns].index_select(0, self._index)
        if self._gathered is None:
            self._gathered = self._table.index_select(0, self._index)
        self._cuts[cut] = self._gathered[:, columns]
        return self._cuts[cut]


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

    def __init__(self, buffers: StepBuffers) -> None:
        """Start with the base in every row. ``buffers`` are those that the linears read."""
        self.known: dict[str, Tensor] = {}
        self.mixed = False
        self.alone: str | None = None
        self.peak_requests = self.peak_distinct = 0
        self._buffers = buffers
        self._contents = [BASE_Z] * buffers.table.shape[0]
        self._rows = TokenRows(buffers.table)

    def begin(self, assignments: Sequence[Assignment], counts: NDArray[np.int32]) -> None:
        """Start a step.

        Args:
            assignments: One for each request of the step.
            counts: How many tokens each request has in it.

        Raises:
            RuntimeError: Two requests name different z for one row: a bug in assigning rows.
        """
        contents = {one.row: one.digest for one in assignments}
        if any(contents[one.row] != one.digest for one in assignments):
            raise RuntimeError(f"two z on one row in one step: {sorted(set(assignments))}")
        changed = {row for row, digest in contents.items() if self._contents[row] != digest}
        for one in {one.row: one for one in assignments if one.row in changed}.values():
            self._contents[one.row] = one.digest
            self._fill(one)
        rows = np.fromiter((one.row for one in assignments), np.int64, len(assignments))
        distinct = len(np.unique(rows))
        self.mixed = bool(rows.any())
        self.alone = assignments[0].digest if self.mixed and distinct == 1 else None
        tokens = np.repeat(rows, counts)
        self._buffers.index[: len(tokens)] = torch.from_numpy(tokens)
        self._gather(assignments, counts, tokens, bool(changed))
        self.peak_requests = max(self.peak_requests, len(assignments))
        self.peak_distinct = max(self.peak_distinct, distinct)

    def end(self) -> None:
        """End a step. Passes without requests, such as warming up, then run as the base."""
        self.mixed, self.alone = False, None
        self._buffers.index.zero_()

    def of(self, columns: slice) -> Tensor:
        """Return some columns of each token's z: [T, c] float32."""
        return self._rows.of(columns)

    def _fill(self, one: Assignment) -> None:
        """Put a request's z into its row."""
        self._buffers.table[one.row] = self.known[one.digest]

    def _gather(
        self, assignments: Sequence[Assignment], counts: NDArray[np.int32], rows: NDArray[np.int64], changed: bool
    ) -> None:
        """Prepare the rows that linears ask for. ``rows`` is the row of each token, ``changed`` as in ``TokenRows``."""
        self._rows.begin(rows, changed)
