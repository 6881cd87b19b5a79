"""From a dataset named in a spec to a task: its authors' files or the hub, two sides, one prompt a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from zfleet.config.datasets import DatasetName
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import TaskError
from zfleet.rewards.build import build_reward, needs_answer
from zfleet.tasks.datasets.arc import ARC_CHALLENGE, ARC_EASY
from zfleet.tasks.datasets.classify import SOURCES
from zfleet.tasks.datasets.dataset import Dataset, Fields, Side, identity
from zfleet.tasks.datasets.gsm8k import GSM8K
from zfleet.tasks.datasets.hub import hub_rows
from zfleet.tasks.datasets.images import ImageFolder
from zfleet.tasks.datasets.math import MATH
from zfleet.tasks.datasets.okvqa import OKVQA
from zfleet.tasks.datasets.programs import HUMANEVAL, MBPP, MBPP_SANITIZED
from zfleet.tasks.rows import Row, read_rows
from zfleet.tasks.split import held_out
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate, fill

DATASETS: Mapping[str, Dataset] = {
    "gsm8k": GSM8K,
    "math": MATH,
    "mbpp": MBPP,
    "mbpp_sanitized": MBPP_SANITIZED,
    "humaneval": HUMANEVAL,
    "arc_easy": ARC_EASY,
    "arc_challenge": ARC_CHALLENGE,
    "okvqa": OKVQA,
}
"""By the name in specs; ``classify`` is made of several."""


def load_dataset_task(spec: TaskSpec) -> Task:
    """The task that a spec makes of a public dataset. The same rows give the same task.

    A dataset that has one side alone is split by digest of the prompt, as a JSONL file is.

    Raises:
        TaskError: No such files, a broken row (file and line named), or a prompt that names no field of the rows.
        SpecError: The reward cannot be built.
    """
    assert spec.dataset is not None
    sides: dict[Side, list[Sample]] = {"train": [], "test": []}
    for side in sides:
        sides[side].extend(_samples(spec, side))
    if not sides["train"] or not sides["test"]:
        both = sides["train"] or sides["test"]
        sides = {"train": [], "test": []}
        for sample in both:
            sides["test" if held_out(sample.prompt, spec.test_fraction) else "train"].append(sample)
    for side, samples in sides.items():
        if not samples:
            raise TaskError(
                f"dataset {spec.dataset} has no {side} rows in {spec.data}: it looks for {_looked_for(spec.dataset)}",
                "give the folder of its authors' files, or one of them; of one side alone, change test_fraction",
            )
    return Task(
        name=spec.dataset,
        train=tuple(sides["train"]),
        test=tuple(sides["test"]),
        template=PromptTemplate(spec.template),
        reward=build_reward(spec.reward),
        max_tokens=spec.max_tokens,
        stop=spec.stop,
    )


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
        rows = (row for path in _paths(dataset, side, place) for row in read_rows(path))
    return (row for row in rows if _kept(dataset, row, side))


def problems_of(name: str, path: Path) -> dict[str, Sample]:
    """The problems of a file, whatever side they belong to, by their task id.

    Raises:
        TaskError: A row that is none, or a dataset whose rows have no task id.
    """
    dataset = DATASETS.get(name)
    if dataset is None or dataset not in (MBPP, MBPP_SANITIZED, HUMANEVAL):
        raise TaskError(f"rows of {name} have no tests", "leave --problems out, or grade programs: mbpp, humaneval")
    found = {}
    for row in read_rows(path):
        fields = dataset.read(row)
        found[fields["task_id"]] = Sample(identity(name, fields), fields["problem"], fields=fields)
    return found


def _looked_for(name: DatasetName) -> str:
    known = [DATASETS[name]] if name in DATASETS else [one for pairs in SOURCES.values() for one, _ in pairs]
    return ", ".join(dict.fromkeys(pattern for one in known for names in one.files.values() for pattern in names))


def _kept(dataset: Dataset, row: Row, side: Side) -> bool:
    try:
        return dataset.keep(row.data, side)
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(f"{row.where} is no row of {dataset.name}: {error!r}", "give the dataset's own file") from error


def _paths(dataset: Dataset, side: Side, place: Path) -> list[Path]:
    patterns = dataset.files.get(side, ())
    if place.is_file():
        # Of a dataset in two files, one alone is both sides.
        others = [pattern for one, names in dataset.files.items() if one != side for pattern in names]
        named = any(place.match(pattern) for pattern in patterns)
        return [place] if named or not any(place.match(pattern) for pattern in others) else []
    for pattern in patterns:
        if found := sorted(place.glob(pattern)):
            return found
    return []


def _samples(spec: TaskSpec, side: Side) -> Iterator[Sample]:
    if spec.dataset == "classify":
        for fields in _classified(spec.data, side):
            yield _sample(spec, fields)
        return
    assert spec.dataset is not None
    dataset = DATASETS[spec.dataset]
    images = _images(dataset, spec.data)
    for row in rows_of(dataset, side, spec.data):
        fields = dataset.read(row)
        yield _sample(spec, fields, (images.find(fields[dataset.image], row),) if images else ())


def _images(dataset: Dataset, data: str | None) -> ImageFolder | None:
    if data is None or not dataset.image:
        return None
    place = Path(data).expanduser()
    return ImageFolder(place if place.is_dir() else place.parent)


def _classified(data: str | None, side: Side) -> Iterator[Fields]:
    """In turns, and as many of each label, so that no label is the likeliest."""
    sources = {label: list(_requests(label, data, side)) for label in SOURCES}
    for place in range(min(len(requests) for requests in sources.values())):
        for label, requests in sources.items():
            yield {"question": requests[place], "labels": ", ".join(SOURCES), "answer": label}


def _requests(label: str, data: str | None, side: Side) -> Iterator[str]:
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
        if any(_paths(dataset, side, folder) for side in ("train", "test") if folder.is_dir()):
            return folder
    return None


def _sample(spec: TaskSpec, fields: Fields, images: tuple[str, ...] = ()) -> Sample:
    prompt = fill(spec.prompt, fields, "prompt")
    if needs_answer(spec.reward) and not fields.get("answer"):
        raise TaskError(
            f"dataset {spec.dataset} has no answers that reward `{spec.reward.kind}` could compare with",
            "leave `reward` out: the dataset brings its own",
        )
    assert spec.dataset is not None
    return Sample(identity(spec.dataset, fields), prompt, fields.get("answer", ""), fields, images)
