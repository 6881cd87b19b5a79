"""Find the rows and images of a public dataset: under its authors' names in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from zfleet.errors import TaskError
from zfleet.tasks.datasets.dataset import Dataset, Side
from zfleet.tasks.rows import Row, read_rows

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def rows_of(dataset: Dataset, side: Side, data: str | None) -> Iterator[Row]:
    """Read the rows of one side; none if the dataset or the folder has no such side.

    Args:
        data: A folder, or a file with all rows; None asks the hub.

    Raises:
        TaskError: The folder is missing, a file cannot be read, or the hub does not have the dataset.
    """
    if data is None:
        rows = _hub_rows(dataset, side)
    else:
        place = Path(data).expanduser()
        if not place.exists():
            raise TaskError(f"{place}, the data of {dataset.name}, does not exist", "check `data` in the task")
        rows = (row for path in files_of(dataset, side, place) for row in read_rows(path))
    return (row for row in rows if _belongs(dataset, row, side))


def files_of(dataset: Dataset, side: Side, place: Path) -> list[Path]:
    """Return the files of one side in a folder. ``place`` may be a file: if no other side claims it, it has both."""
    patterns = dataset.files.get(side, ())
    if place.is_file():
        others = [pattern for other, names in dataset.files.items() if other != side for pattern in names]
        matches = any(place.match(pattern) for pattern in patterns)
        return [place] if matches or not any(place.match(pattern) for pattern in others) else []
    for pattern in patterns:
        if files := sorted(place.glob(pattern)):
            return files
    return []


class ImageFolder:
    """The images in a folder and its subfolders, by their names without suffix."""

    def __init__(self, root: Path) -> None:
        """Search for images.

        Raises:
            TaskError: Two images have the same name.
        """
        self._root = root
        self._files: dict[str, Path] = {}
        # Follow links: large sets of images are often stored elsewhere.
        for folder, _, names in os.walk(root, followlinks=True):
            for path in (Path(folder, name) for name in names):
                if path.suffix.lower() not in _IMAGE_SUFFIXES:
                    continue
                other = self._files.setdefault(path.stem, path)
                if other != path:
                    raise TaskError(f"images {other} and {path} have the same name", "keep one of them")

    def find(self, name: str, row: Row) -> str:
        """Return the path of a row's image.

        Raises:
            TaskError: There is no such image; names the row's file and place.
        """
        stem = Path(name).stem if Path(name).suffix.lower() in _IMAGE_SUFFIXES else name
        if stem not in self._files:
            raise TaskError(
                f"{row.where}: its image {name} is not below {self._root}, which has {len(self._files)} images",
                "put the dataset's images beside its rows, or remove the rows without an image",
            )
        return str(self._files[stem].absolute())


def _hub_rows(dataset: Dataset, side: Side) -> Iterator[Row]:
    if dataset.hub is None:
        raise TaskError(f"dataset {dataset.name} is not read from the hub", "give `data`, a folder with its files")
    if side not in dataset.splits:
        return
    name, configuration = dataset.hub
    remedy = "give `data`, a folder with the dataset's files, or use a machine that can reach the hub"
    try:
        # Imported late: it takes seconds, and only tasks from the hub need it.
        import datasets

        rows = datasets.load_dataset(name, configuration, split=dataset.splits[side], streaming=True)
        for number, row in enumerate(rows):
            yield Row(dict(row), f"{name}, {side} row {number}")
    except ImportError as error:
        raise TaskError(f"dataset {dataset.name} needs the package `datasets`: {error}", remedy) from error
    except Exception as error:  # Errors of the hub, of HTTP and of files have no common class.
        raise TaskError(f"dataset {name} cannot be read from the hub: {error}", remedy) from error


def _belongs(dataset: Dataset, row: Row, side: Side) -> bool:
    try:
        return dataset.keep(row.data, side)
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(
            f"{row.where} is not a row of {dataset.name}: {error!r}", "give the dataset's own file"
        ) from error
