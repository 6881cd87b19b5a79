"""The z rows of a decoding batch, of which each step copies those that changed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.engine.contract import BASE_Z
from zfleet.engine.torch_engine.bound_rows import BoundRows
from zfleet.engine.z_table import TensorZTable
from zfleet.errors import WrongZ

SIZE = 3


def test_a_row_that_holds_other_numbers_is_found_before_anything_is_answered_under_it() -> None:
    table = TensorZTable(SIZE, 3, torch.device("cpu"), lambda row: str(int(row[0])))
    table.put("1", torch.full((SIZE,), 2.0))
    with pytest.raises(WrongZ, match="row 1 of the engine's table should hold z 1, and holds 2"):
        table.pin(table.use("1"))
    assert table.resident == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=8))
def test_rows_are_those_of_the_batch_whatever_ran_before(batches: list[list[int]]) -> None:
    """With fewer rows in the table than there are z, so that rows change their z."""
    table = TensorZTable(SIZE, 7, torch.device("cpu"), lambda row: str(int(row[0])))
    for number in range(1, 6):
        table.put(str(number), torch.full((SIZE,), float(number)))
    rows = BoundRows(table)
    for batch in batches:
        entries = [table.use(BASE_Z if number == 0 else str(number)) for number in batch]
        for entry in entries:
            assert table.pin(entry) is not None
        bound = rows.of(entries)
        if set(batch) == {0}:
            assert bound is None
        else:
            assert bound is not None
            assert bound.expand(len(batch), -1).tolist() == [[float(number or 1)] * SIZE for number in batch]
        for entry in entries:
            table.unpin(entry)
            table.unuse(entry)
