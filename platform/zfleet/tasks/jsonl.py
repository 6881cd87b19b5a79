"""A task from a JSONL file: one JSON object a line, one of its fields the prompt."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Formatter

from zfleet.config.specs import TaskSpec
from zfleet.errors import TaskError
from zfleet.rewards.build import build_reward, needs_answer
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate


def load_jsonl_task(spec: TaskSpec) -> Task:
    """Read a task's file. The same rows give the same task, whatever their order in the file.

    Which side of the split a row falls on depends on its prompt alone: rows with the same prompt stay together,
    and rows that are added later move no other. A field that is no string becomes its JSON text, null is left out.

    Raises:
        TaskError: The file cannot be read; a line (named) is no JSON object or lacks a field that the prompt,
            the template or the reward needs; a side of the split is empty.
        SpecError: The reward cannot be built.
    """
    assert spec.jsonl is not None
    path = Path(spec.jsonl).expanduser()
    reward = build_reward(spec.reward)
    wanted = _template_fields(spec.template)
    seen: Counter[str] = Counter()
    train: list[Sample] = []
    test: list[Sample] = []
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        sample = _sample(row, spec, where)
        _check_template(sample, wanted, where)
        seen[sample.id] += 1
        if seen[sample.id] > 1:
            sample = Sample(f"{sample.id}-{seen[sample.id]}", sample.prompt, sample.answer, sample.fields)
        (test if _held_out(sample.prompt, spec.test_fraction) else train).append(sample)
    for side, samples in (("train", train), ("test", test)):
        if not samples:
            raise TaskError(
                f"{path} leaves the {side} split empty: {len(train) + len(test)} rows, "
                f"test_fraction {spec.test_fraction:g}",
                "add rows with other prompts, or change test_fraction",
            )
    return Task(
        name=path.stem,
        train=tuple(sorted(train, key=_identity)),
        test=tuple(sorted(test, key=_identity)),
        template=PromptTemplate(spec.template),
        reward=reward,
        max_tokens=spec.max_tokens,
        stop=spec.stop,
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        # Bytes, and split at newlines only: text mode also splits inside strings at a lone carriage return.
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse(line, f"{path}, line {number}")
    except OSError as error:
        raise TaskError(f"task file {path} cannot be read: {error.strerror}", "check `jsonl` in the task") from error


def _parse(line: bytes, where: str) -> dict[str, str]:
    try:
        row = json.loads(line)
        # JSON can hold half of a surrogate pair, which no tokenizer takes.
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where} is no JSON: {error}", "write one JSON object per line, in UTF-8") from error
    if not isinstance(row, dict):
        raise TaskError(f"{where} is a JSON {type(row).__name__}, no object", 'write it as {"prompt": "..."}')
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in row.items()
        if value is not None
    }


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
    canonical = json.dumps(row, sort_keys=True)
    fields = {key: value for key, value in row.items() if key != "prompt"}
    return Sample(hashlib.sha256(canonical.encode()).hexdigest()[:16], prompt, answer, fields)


def _held_out(prompt: str, fraction: float) -> bool:
    digest = hashlib.sha256(prompt.strip().encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _template_fields(template: str | None) -> set[str]:
    """The fields a template names, the prompt aside."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(template or "") if name is not None]
    except ValueError as error:
        raise TaskError(f"template {template!r} is no format string: {error}", "double braces that are text") from error
    if template is not None and not names:
        raise TaskError(f"template {template!r} names no field", "put {prompt} where the prompt goes")
    return set(names) - {"prompt"}


def _check_template(sample: Sample, wanted: set[str], where: str) -> None:
    missing = sorted(wanted - sample.fields.keys())
    if missing:
        raise TaskError(
            f"{where} lacks the field {missing[0]!r}, which the template names",
            f"the template can name: {', '.join(['prompt', *sample.fields])}",
        )


def _identity(sample: Sample) -> str:
    return sample.id
