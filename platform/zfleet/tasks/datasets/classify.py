"""The paper's classification task: to which task does a prompt belong? (arXiv 2501.06252, section 3.2)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from zfleet.tasks.datasets.dataset import Dataset, Fields, Side
from zfleet.tasks.datasets.math_problems import GSM8K
from zfleet.tasks.datasets.programs import MBPP, MBPP_SANITIZED
from zfleet.tasks.datasets.questions import ARC_EASY
from zfleet.tasks.datasets.sources import files_of, rows_of

SOURCES: Mapping[str, tuple[tuple[Dataset, str], ...]] = {
    "math": ((GSM8K, "question"),),
    "code": ((MBPP, "problem"), (MBPP_SANITIZED, "problem")),
    "reasoning": ((ARC_EASY, "question"),),
}
"""For each label, the datasets to draw from and the field that is the request. The first dataset with files is used."""


def requests(data: str | None, side: Side) -> Iterator[Fields]:
    """Yield requests with their labels, in turns and in equal numbers, so that no label is the best guess.

    Args:
        data: A folder with the files of the sources, or with a subfolder for each; None asks the hub.

    Raises:
        TaskError: As ``rows_of``.
    """
    sources = {label: list(_of_label(label, data, side)) for label in SOURCES}
    for place in range(min(map(len, sources.values()))):
        for label, questions in sources.items():
            yield {"question": questions[place], "labels": ", ".join(SOURCES), "answer": label}


def source_files(data: Path) -> list[Path]:
    """Return the files that ``requests`` reads from a folder."""
    files: list[Path] = []
    for pairs in SOURCES.values():
        found = ((dataset, _folder(data, dataset)) for dataset, _ in pairs)
        dataset, folder = next(((dataset, folder) for dataset, folder in found if folder is not None), (None, None))
        if dataset is not None and folder is not None:
            files += files_of(dataset, "train", folder) + files_of(dataset, "test", folder)
    return files


def _of_label(label: str, data: str | None, side: Side) -> Iterator[str]:
    for dataset, field in SOURCES[label]:
        folder = None if data is None else _folder(Path(data).expanduser(), dataset)
        if data is not None and folder is None:
            continue
        for row in rows_of(dataset, side, None if folder is None else str(folder)):
            yield dataset.read(row)[field]
        return


def _folder(root: Path, dataset: Dataset) -> Path | None:
    """Return the folder with the dataset's files, ``root`` or a subfolder; None if there is none."""
    for folder in (root, *sorted(path for path in root.glob("*") if path.is_dir())):
        if any(files_of(dataset, side, folder) for side in ("train", "test") if folder.is_dir()):
            return folder
    return None
