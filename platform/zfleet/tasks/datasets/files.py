"""Where the rows of a public dataset lie: under its authors' names in a folder, or on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zfleet.errors import TaskError
from zfleet.tasks.datasets.dataset import Dataset, Side
from zfleet.tasks.datasets.hub import hub_rows
from zfleet.tasks.rows import Row, read_rows


def rows_of(dataset: Dataset, side: Side, data: str | None) -> Iterator[Row]:
    """The rows of one side; none where the dataset or the folder has none.

    Args:
        data: A folder, or a file that holds all there is; None asks the hub.

    Raises:
        TaskError: Nothing is there, or a file cannot be read.
    """
    if data is None:
        rows = hub_rows(dataset, side)
    else:
        place = Path(data).expanduser()
        if not place.exists():
            raise TaskError(f"{place}, the data of {dataset.name}, is not there", "check `data` in the task")
        rows = (row for path in files_of(dataset, side, place) for row in read_rows(path))
    return (row for row in rows if _kept(dataset, row, side))


def files_of(dataset: Dataset, side: Side, place: Path) -> list[Path]:
    """Of one side, in a folder or of one file: of a dataset in two files, one alone is both sides."""
    patterns = dataset.files.get(side, ())
    if place.is_file():
        others = [pattern for one, names in dataset.files.items() if one != side for pattern in names]
        named = any(place.match(pattern) for pattern in patterns)
        return [place] if named or not any(place.match(pattern) for pattern in others) else []
    for pattern in patterns:
        if found := sorted(place.glob(pattern)):
            return found
    return []


def _kept(dataset: Dataset, row: Row, side: Side) -> bool:
    try:
        return dataset.keep(row.data, side)
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(f"{row.where} is no row of {dataset.name}: {error!r}", "give the dataset's own file") from error
