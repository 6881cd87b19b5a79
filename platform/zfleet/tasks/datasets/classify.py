"""Which task is this prompt? The paper's classification task (arXiv 2501.06252, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from zfleet.tasks.datasets.arc import ARC_EASY
from zfleet.tasks.datasets.dataset import Dataset, Fields, Side
from zfleet.tasks.datasets.files import files_of, rows_of
from zfleet.tasks.datasets.gsm8k import GSM8K
from zfleet.tasks.datasets.programs import MBPP, MBPP_SANITIZED

SOURCES: Mapping[str, tuple[tuple[Dataset, str], ...]] = {
    "math": ((GSM8K, "question"),),
    "code": ((MBPP, "problem"), (MBPP_SANITIZED, "problem")),
    "reasoning": ((ARC_EASY, "question"),),
}
"""By label: the datasets it is drawn from, the first whose files are there, and the field that is the request."""


def requests(data: str | None, side: Side) -> Iterator[Fields]:
    """Requests with their labels, in turns, and as many of each label, so that none is the likeliest.

    Args:
        data: A folder with those of the sources, or one below it for each; None asks the hub.

    Raises:
        TaskError: As ``rows_of``.
    """
    sources = {label: list(_of_label(label, data, side)) for label in SOURCES}
    for place in range(min(map(len, sources.values()))):
        for label, asked in sources.items():
            yield {"question": asked[place], "labels": ", ".join(SOURCES), "answer": label}


def _of_label(label: str, data: str | None, side: Side) -> Iterator[str]:
    for dataset, field in SOURCES[label]:
        folder = None if data is None else _folder(Path(data).expanduser(), dataset)
        if data is not None and folder is None:
            continue
        for row in rows_of(dataset, side, None if folder is None else str(folder)):
            yield dataset.read(row)[field]
        return


def _folder(root: Path, dataset: Dataset) -> Path | None:
    """The folder below ``root``, or ``root`` itself, that has the dataset's files."""
    for folder in (root, *sorted(path for path in root.glob("*") if path.is_dir())):
        if any(files_of(dataset, side, folder) for side in ("train", "test") if folder.is_dir()):
            return folder
    return None
