"""Rows from the Hugging Face hub, through ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator

from zfleet.errors import TaskError
from zfleet.tasks.datasets.dataset import Dataset, Side
from zfleet.tasks.rows import Row


def hub_rows(dataset: Dataset, side: Side) -> Iterator[Row]:
    """The rows of one side, streamed; none where the dataset has no such side.

    Raises:
        TaskError: The hub cannot be reached, or has no such dataset.
    """
    if dataset.hub is None:
        raise TaskError(f"dataset {dataset.name} is not read from the hub", "give `data`, a folder with its files")
    if side not in dataset.splits:
        return
    name, configuration = dataset.hub
    remedy = "give `data`, a folder with the dataset's files, or a machine that reaches the hub"
    try:
        # Takes seconds, and only tasks from the hub need it.
        import datasets

        rows = datasets.load_dataset(name, configuration, split=dataset.splits[side], streaming=True)
        for number, row in enumerate(rows):
            yield Row(dict(row), f"{name}, {side} row {number}")
    except ImportError as error:
        raise TaskError(f"dataset {dataset.name} needs the package `datasets`: {error}", remedy) from error
    except Exception as error:  # of many kinds: of the hub, of HTTP, of files
        raise TaskError(f"dataset {name} cannot be had from the hub: {error}", remedy) from error
