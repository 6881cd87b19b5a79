"""The files of a run: what is read back, and what a damaged file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from zfleet.errors import SamplesError
from zfleet.evaluate.cells import CellKey
from zfleet.evaluate.matrix import matrix_of
from zfleet_jobs.evaluate.cell_files import FOLDER, SCHEMA, file_name, read_answers, read_cells, write_cell
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.testing.evaluations import EXPERTS, TASKS, WAYS, prepare_fake


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    """A run with every kind of way on one task."""
    stage = prepare_fake(tmp_path / "cache", {"mixed": TASKS["mixed"]}, EXPERTS, **WAYS)
    stage.found |= {CellKey("mixed", "cem", 3, draw, 0): {"up/1": (0.5, 1.0), "down/2": 0.25} for draw in (0, 1)}
    storage = Storage.at(str(tmp_path / "run"))
    for cell in stage.run().values():
        write_cell(storage, cell.key, cell.way.kind, cell.own_task, cell.rows)
    return storage


def test_cells_are_read_as_they_were_measured(run: Storage) -> None:
    cells = {cell.key: cell for cell in read_cells(run)}
    assert len(cells) == 12
    found = cells[CellKey("mixed", "cem", 3, 1, 0)]
    assert (found.kind, found.own_task, found.clusters) == ("search", None, None)
    assert found.mixtures[0] == {"up/1": (0.5, 1.0), "down/2": 0.25}
    assert found.rewards.shape == found.tokens.shape == (12,)
    assert np.isnan(found.confidences).all()
    dispatched = cells[CellKey("mixed", "asks-expert")]
    assert np.isnan(dispatched.confidences[2])
    assert (dispatched.confidences[:2] > 0.99).all()
    assert list(dispatched.named[:3]) == ["up/1", "down/2", ""]
    assert (dispatched.first_tokens > 0).all()
    assert list(dispatched.own[:3]) == ["up/1", "down/2", ""]
    assert cells[CellKey("mixed", "up/1")].own_task is False


def test_the_table_is_computed_from_the_files_alone(run: Storage) -> None:
    matrix = matrix_of(read_cells(run), "best-single")
    found = {entry.way: entry for entry in matrix.entries}
    assert found["oracle"].accuracy.mean == 1.0
    assert found["base"].accuracy.mean == pytest.approx(1 / 3)
    assert found["cem"].replicates == 2
    assert found["asks-expert"].cost is not None
    assert 0 < found["asks-expert"].cost.first_share < 1


def test_whole_rows_are_read_for_some_cells(run: Storage) -> None:
    key = CellKey("mixed", "up/1")
    ((_, rows),) = read_answers(run, [key]).items()
    assert rows[0].keys() == set(SCHEMA.names)
    assert (rows[0]["prompt"], rows[0]["completion"], rows[0]["reward"]) == ("up test mixed 0", "U", 1.0)
    assert (rows[1]["completion"], rows[1]["reward"], rows[1]["z"]) == ("wron", -1.0, EXPERTS["up/1"].digest)


def test_any_program_can_read_them(run: Storage) -> None:
    (file,) = Path(run.place, FOLDER).glob("mixed-asks-expert-*.parquet")
    table = pq.read_table(file)
    assert table.column_names == SCHEMA.names
    assert table["label"].to_pylist()[:3] == ["up", "down", None]


def test_names_that_look_the_same_are_different_files() -> None:
    names = {file_name(CellKey("t", way)) for way in ("up/1", "up-1", "up 1", "up/1" * 40)}
    assert len(names) == 4
    assert all(len(name) < 120 and "/" not in name for name in names)
    assert file_name(CellKey("t", "cem", 10, 2, 0)).startswith("t-cem-shots10-draw2-seed0-")


def test_a_damaged_file_is_named(run: Storage) -> None:
    (file,) = Path(run.place, FOLDER).glob("mixed-uniform-*.parquet")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(SamplesError, match=r"mixed-uniform-.* is damaged") as caught:
        read_cells(run)
    assert "delete it" in caught.value.remedy
    file.unlink()
    with pytest.raises(SamplesError, match="is gone"):
        read_answers(run, [CellKey("mixed", "uniform")])
