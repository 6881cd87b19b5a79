"""Load a task from the public dataset that a spec names: two sides, and one prompt for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from zfleet.config.datasets import DatasetName
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import TaskError
from zfleet.rewards.build import build_reward, check_row, needs_answer
from zfleet.tasks.datasets.classify import SOURCES, requests
from zfleet.tasks.datasets.dataset import Dataset, Fields, Side, identity
from zfleet.tasks.datasets.math_problems import GSM8K, MATH
from zfleet.tasks.datasets.programs import HUMANEVAL, MBPP, MBPP_SANITIZED
from zfleet.tasks.datasets.questions import ARC_CHALLENGE, ARC_EASY, OKVQA
from zfleet.tasks.datasets.sources import ImageFolder, rows_of
from zfleet.tasks.rows import read_rows
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
"""The datasets by their name in specs; ``classify`` draws from several of them."""


def load_dataset_task(spec: TaskSpec) -> Task:
    """Load a task from a public dataset. The same rows give the same task.

    A dataset with only one side is split by digest of the prompt, as a JSONL file is.

    Raises:
        TaskError: Files are missing, a row is broken (file and line are named), or the prompt names an unknown field.
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
                f"dataset {spec.dataset} has no {side} rows in {spec.data}: it looks for {_file_names(spec.dataset)}",
                "give the folder of its authors' files, or one of them; if the data has one side, change test_fraction",
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


def problems_of(name: str, path: Path) -> dict[str, Sample]:
    """Read the problems of a file, of both sides, by task id. An identical problem may be given twice.

    Raises:
        TaskError: A row is broken, two different problems have the same task id (file and lines are named), or the
            dataset's rows have no task id.
    """
    dataset = DATASETS.get(name)
    if dataset is None or dataset not in (MBPP, MBPP_SANITIZED, HUMANEVAL):
        raise TaskError(f"rows of {name} have no tests", "omit --problems, or grade programs: mbpp, humaneval")
    problems: dict[str, tuple[Sample, str]] = {}
    for row in read_rows(path):
        fields = dataset.read(row)
        sample = Sample(identity(name, fields), fields["problem"], fields=fields)
        first, where = problems.setdefault(fields["task_id"], (sample, row.where))
        if sample != first:
            raise TaskError(
                f"{row.where} has task_id {fields['task_id']!r}, which another problem has: {where}",
                "give each problem its own id, or delete the wrong one",
            )
    return {task_id: sample for task_id, (sample, _) in problems.items()}


def _file_names(name: DatasetName) -> str:
    datasets = [DATASETS[name]] if name in DATASETS else [source for pairs in SOURCES.values() for source, _ in pairs]
    return ", ".join(dict.fromkeys(file for dataset in datasets for names in dataset.files.values() for file in names))


def _samples(spec: TaskSpec, side: Side) -> Iterator[Sample]:
    if spec.dataset == "classify":
        for fields in requests(spec.data, side):
            yield _sample(spec, fields, "a row of classify")
        return
    assert spec.dataset is not None
    dataset = DATASETS[spec.dataset]
    rows = rows_of(dataset, side, spec.data)
    images = _images(dataset, spec.data)
    for row in rows:
        fields = dataset.read(row)
        yield _sample(spec, fields, row.where, (images.find(fields[dataset.image], row),) if images else ())


def _images(dataset: Dataset, data: str | None) -> ImageFolder | None:
    if data is None or not dataset.image:
        return None
    place = Path(data).expanduser()
    return ImageFolder(place if place.is_dir() else place.parent)


def _sample(spec: TaskSpec, fields: Fields, where: str, images: tuple[str, ...] = ()) -> Sample:
    prompt = fill(spec.prompt, fields, "prompt")
    if needs_answer(spec.reward) and not fields.get("answer"):
        raise TaskError(
            f"dataset {spec.dataset} has no answers for reward `{spec.reward.kind}` to compare with",
            "omit `reward`: the dataset brings its own",
        )
    check_row(spec.reward, fields.get("answer", ""), fields, where)
    assert spec.dataset is not None
    return Sample(identity(spec.dataset, fields), prompt, fields.get("answer", ""), fields, images)
