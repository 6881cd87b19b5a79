"""Load a task from a JSONL file: one JSON object in each line, with the prompt in one of its fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any

from zfleet.config.task_specs import TaskSpec
from zfleet.errors import TaskError
from zfleet.rewards.build import build_reward, check_row, needs_answer
from zfleet.tasks.indexed import IndexBuilder
from zfleet.tasks.rows import SpelledFloat, read_lines
from zfleet.tasks.split import held_out
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate

_IN_MEMORY = 16 * 2**20
"""The largest file, in bytes, whose rows are held in memory and sent to workers."""


def load_jsonl_task(spec: TaskSpec) -> Task:
    """Read a task's file. The same rows give the same task, in any order.

    The side of the split depends on the prompt alone: rows with the same prompt stay together, and rows that are added
    later move no other row. A field that is not a string becomes its JSON text, with numbers as they are spelled; null
    is left out. The rows of a large file stay in the file.

    Raises:
        TaskError: The file cannot be read; a line (named) is not a JSON object or lacks a field that the prompt,
            the template or the reward needs; a side of the split is empty.
        SpecError: The reward cannot be built.
    """
    assert spec.jsonl is not None
    path = Path(spec.jsonl).expanduser().absolute()
    if path.suffix == ".gz":
        raise TaskError(f"{path} is compressed: its rows cannot be read in any order", "unpack it with gunzip")
    reward = build_reward(spec.reward)
    parse = _Parse(spec, frozenset(_template_fields(spec.template)), path.parent)
    sides = {"train": IndexBuilder(), "test": IndexBuilder()}
    for row in read_lines(path):
        sample = parse(row.data, row.where)
        sides["test" if held_out(sample.prompt, spec.test_fraction) else "train"].add(row.offset, sample.id)
    for side, index in sides.items():
        if not index:
            raise TaskError(
                f"{path} leaves the {side} split empty: {sum(map(len, sides.values()))} rows, "
                f"test_fraction {spec.test_fraction:g}",
                "add rows with other prompts, or change test_fraction",
            )
    small = path.stat().st_size <= _IN_MEMORY
    train, test = (index.build(path, parse) for index in sides.values())
    return Task(
        name=path.stem,
        train=tuple(train) if small else train,
        test=tuple(test) if small else test,
        template=PromptTemplate(spec.template),
        reward=reward,
        max_tokens=spec.max_tokens,
        stop=spec.stop,
    )


@dataclass(frozen=True)
class _Parse:
    """Turns a row into a sample, by a task's spec.

    Attributes:
        spec: The task.
        template_fields: The fields that the template names.
        folder: Paths of images are relative to this folder.
    """

    spec: TaskSpec
    template_fields: frozenset[str]
    folder: Path

    def __call__(self, data: Mapping[str, Any], where: str) -> Sample:
        fields = {
            key: str(value) if isinstance(value, str | SpelledFloat) else json.dumps(value, ensure_ascii=False)
            for key, value in data.items()
            if value is not None
        }
        sample = replace(_sample(fields, self.spec, where), images=self._images(data, where))
        _check_template(sample, self.template_fields, where)
        return sample

    def _images(self, data: Mapping[str, Any], where: str) -> tuple[str, ...]:
        field = self.spec.image_field
        if field is None:
            return ()
        value = data.get(field)
        paths = [value] if isinstance(value, str) else value
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise TaskError(
                f"{where}: the image field {field!r} is {value!r}, neither a path nor a list of paths",
                "give each row the path of its image, relative to the file's folder",
            )
        images = [self.folder / path for path in paths]
        for image in images:
            if not _is_file(image):
                raise TaskError(
                    f"{where}: image {image} is not a file", "give paths relative to the folder of the JSONL file"
                )
        return tuple(map(str, images))


def _sample(row: Mapping[str, str], spec: TaskSpec, where: str) -> Sample:
    if spec.prompt_field not in row:
        raise TaskError(
            f"{where} lacks the prompt field {spec.prompt_field!r}",
            f"add it, or set prompt_field to one of the row's fields: {', '.join(row) or 'it has none'}",
        )
    prompt = row[spec.prompt_field]
    if not prompt.strip():
        raise TaskError(f"{where}: the prompt field {spec.prompt_field!r} is empty", "fill it or delete the line")
    answer = row.get(spec.answer_field, "")
    if needs_answer(spec.reward) and not answer.strip():
        raise TaskError(
            f"{where} lacks the answer field {spec.answer_field!r}, which reward `{spec.reward.kind}` compares with",
            "add it, set answer_field to another field, or set reward.value to one answer for all rows",
        )
    check_row(spec.reward, answer, row, where)
    canonical = json.dumps(row, sort_keys=True)
    fields = {key: value for key, value in row.items() if key != "prompt"}
    return Sample(hashlib.sha256(canonical.encode()).hexdigest()[:16], prompt, answer, fields)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # The name is too long.
        return False


def _template_fields(template: str | None) -> set[str]:
    """Return the fields that a template names, except the prompt."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(template or "") if name is not None]
    except ValueError as error:
        raise TaskError(
            f"template {template!r} is not a format string: {error}", "write braces that are text twice: {{ and }}"
        ) from error
    if template is not None and not names:
        raise TaskError(f"template {template!r} names no field", "put {prompt} where the prompt goes")
    return set(names) - {"prompt"}


def _check_template(sample: Sample, template_fields: Set[str], where: str) -> None:
    missing = sorted(template_fields - sample.fields.keys())
    if missing:
        raise TaskError(
            f"{where} lacks the field {missing[0]!r}, which the template names",
            f"the template can name: {', '.join(['prompt', *sample.fields])}",
        )
