"""A task from a JSONL file: one JSON object a line, one of its fields the prompt."""

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
"""Bytes of the largest file whose rows are held in memory, and travel to workers."""


def load_jsonl_task(spec: TaskSpec) -> Task:
    """Read a task's file. The same rows give the same task, whatever their order in the file.

    Which side of the split a row falls on depends on its prompt alone: rows with the same prompt stay together,
    and rows that are added later move no other. A field that is no string becomes its JSON text, numbers as they are
    spelled; null is left out. Of a large file the rows stay where they are.

    Raises:
        TaskError: The file cannot be read; a line (named) is no JSON object or lacks a field that the prompt,
            the template or the reward needs; a side of the split is empty.
        SpecError: The reward cannot be built.
    """
    assert spec.jsonl is not None
    path = Path(spec.jsonl).expanduser().absolute()
    if path.suffix == ".gz":
        raise TaskError(f"{path} is packed: its lines cannot be entered in the middle", "unpack it with gunzip")
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
    """From a row to its sample, as a task's spec says."""

    spec: TaskSpec
    named: frozenset[str]
    folder: Path

    def __call__(self, data: Mapping[str, Any], where: str) -> Sample:
        fields = {
            key: str(value) if isinstance(value, str | SpelledFloat) else json.dumps(value, ensure_ascii=False)
            for key, value in data.items()
            if value is not None
        }
        sample = replace(_sample(fields, self.spec, where), images=self._images(data, where))
        _check_template(sample, self.named, where)
        return sample

    def _images(self, data: Mapping[str, Any], where: str) -> tuple[str, ...]:
        field = self.spec.image_field
        if field is None:
            return ()
        named = data.get(field)
        paths = [named] if isinstance(named, str) else named
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise TaskError(
                f"{where}: the image field {field!r} is {named!r}, no path and no list of paths",
                "give each row the path of its image, from the file's folder",
            )
        found = [self.folder / path for path in paths]
        for path in found:
            if not _is_file(path):
                raise TaskError(f"{where}: image {path} is no file", "paths of images are from the JSONL file's folder")
        return tuple(map(str, found))


def _sample(row: Mapping[str, str], spec: TaskSpec, where: str) -> Sample:
    if spec.prompt_field not in row:
        raise TaskError(
            f"{where} lacks the prompt field {spec.prompt_field!r}",
            f"add it, or set prompt_field to one of its fields: {', '.join(row) or 'it has none'}",
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
    except OSError:  # a name that is too long
        return False


def _template_fields(template: str | None) -> set[str]:
    """The fields a template names, the prompt aside."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(template or "") if name is not None]
    except ValueError as error:
        raise TaskError(f"template {template!r} is no format string: {error}", "double braces that are text") from error
    if template is not None and not names:
        raise TaskError(f"template {template!r} names no field", "put {prompt} where the prompt goes")
    return set(names) - {"prompt"}


def _check_template(sample: Sample, wanted: Set[str], where: str) -> None:
    missing = sorted(wanted - sample.fields.keys())
    if missing:
        raise TaskError(
            f"{where} lacks the field {missing[0]!r}, which the template names",
            f"the template can name: {', '.join(['prompt', *sample.fields])}",
        )
