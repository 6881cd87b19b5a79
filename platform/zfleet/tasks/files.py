"""List the files that a task reads, so that they can be sent where it is built again."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from zfleet.config.task_specs import TaskSpec
from zfleet.tasks.datasets.classify import source_files
from zfleet.tasks.datasets.load import DATASETS
from zfleet.tasks.datasets.sources import files_of
from zfleet.tasks.task import Task


def task_files(spec: TaskSpec, task: Task) -> set[Path]:
    """Return the files of rows and images, as absolute paths. None for a task of the lab or from the hub.

    Args:
        spec: The task's spec.
        task: The task that was built from it.
    """
    files = (
        {Path(image) for sample in chain(task.train, task.test) for image in sample.images} if _sees(spec) else set()
    )
    if spec.jsonl is not None:
        files.add(Path(spec.jsonl).expanduser())
    elif spec.data is not None:
        data = Path(spec.data).expanduser()
        if spec.dataset == "classify":
            files.update(source_files(data))
        elif spec.dataset is not None:
            dataset = DATASETS[spec.dataset]
            files.update(files_of(dataset, "train", data) + files_of(dataset, "test", data))
    return {path.absolute() for path in files}


def _sees(spec: TaskSpec) -> bool:
    """Return whether samples may have images; otherwise a large file need not be read for them."""
    dataset = None if spec.dataset is None else DATASETS.get(spec.dataset)
    return spec.image_field is not None or (dataset is not None and bool(dataset.image))
