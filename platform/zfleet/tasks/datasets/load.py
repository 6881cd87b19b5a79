"""From a dataset named in a spec to a task: its authors' files or the hub, two sides, one prompt a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from zfleet.config.datasets import DatasetName
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import TaskError
from zfleet.rewards.build import build_reward, check_row, needs_answer
from zfleet.tasks.datasets.arc import ARC_CHALLENGE, ARC_EASY
from zfleet.tasks.datasets.classify import SOURCES, requests
from zfleet.tasks.datasets.dataset import Dataset, Fields, Side, identity
from zfleet.tasks.datasets.files import rows_of
from zfleet.tasks.datasets.gsm8k import GSM8K
from zfleet.tasks.datasets.images import ImageFolder
from zfleet.tasks.datasets.math import MATH
from zfleet.tasks.datasets.okvqa import OKVQA
from zfleet.tasks.datasets.programs import HUMANEVAL, MBPP, MBPP_SANITIZED
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


def problems_of(name: str, path: Path) -> dict[str, Sample]:
    """The problems of a file, whatever side they belong to, by their task id. One that is there twice is one.

    Raises:
        TaskError: A row that is none, two problems that differ and have one task id (file and lines named), or a
            dataset whose rows have no task id.
    """
    dataset = DATASETS.get(name)
    if dataset is None or dataset not in (MBPP, MBPP_SANITIZED, HUMANEVAL):
        raise TaskError(f"rows of {name} have no tests", "leave --problems out, or grade programs: mbpp, humaneval")
    found: dict[str, tuple[Sample, str]] = {}
    for row in read_rows(path):
        fields = dataset.read(row)
        sample = Sample(identity(name, fields), fields["problem"], fields=fields)
        before, where = found.setdefault(fields["task_id"], (sample, row.where))
        if sample != before:
            raise TaskError(
                f"{row.where} has task_id {fields['task_id']!r}, which another problem has: {where}",
                "give each problem an id of its own, or delete the one that is wrong",
            )
    return {task_id: sample for task_id, (sample, _) in found.items()}


def _looked_for(name: DatasetName) -> str:
    known = [DATASETS[name]] if name in DATASETS else [one for pairs in SOURCES.values() for one, _ in pairs]
    return ", ".join(dict.fromkeys(pattern for one in known for names in one.files.values() for pattern in names))


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
            f"dataset {spec.dataset} has no answers that reward `{spec.reward.kind}` could compare with",
            "leave `reward` out: the dataset brings its own",
        )
    check_row(spec.reward, fields.get("answer", ""), fields, where)
    assert spec.dataset is not None
    return Sample(identity(spec.dataset, fields), prompt, fields.get("answer", ""), fields, images)
