"""Shots, selection and test of each task, and the check that no prompt is in two of them, in whichever tasks.

What is searched on, chosen by and reported on must be different prompts, or the report flatters whatever saw them. A
prompt is known by a digest of its text and images, a row by that of its prompt and answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from zfleet.errors import TaskError
from zfleet.tasks.split import held_out
from zfleet.tasks.task import Sample, Task, read_image

Part = Literal["shots", "selection", "test"]

_SELECTION_SHARE = 0.3
"""Of the training prompts, those that selection may draw from; shots are drawn from the others."""
_ROWS_SHOWN = 10
_CHARACTERS_SHOWN = 40


@dataclass(frozen=True)
class Split:
    """The parts of one task.

    Attributes:
        task: The task. Its own split is not used any more.
        pool: Distinct training prompts that shots are drawn from.
        selection: Distinct training prompts that ways are chosen by.
        test: Held-out prompts, reported on.
    """

    task: Task
    pool: tuple[Sample, ...]
    selection: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def shots(self, count: int, draw: int) -> tuple[Sample, ...]:
        """Draw shots. Fewer shots of the same draw are the first of more.

        Raises:
            TaskError: There are not so many.
        """
        if len(self.pool) < count:
            raise TaskError(
                f"task {self.task.name} has {len(self.pool)} distinct training prompts to draw shots from, {count} "
                "were asked for",
                "lower `shots`, or give the task more prompts",
            )
        return tuple(sorted(self.pool, key=lambda sample: _order(f"shots/{draw}", sample))[:count])

    def few_shot(self, count: int, draw: int) -> Task:
        """Return the task with the shots for its training split, and no test: all that a search may see.

        Raises:
            TaskError: As ``shots``.
        """
        return replace(self.task, train=self.shots(count, draw), test=())


def split(task: Task, selection: int, test: int) -> Split:
    """Split a task. The part that a training prompt belongs to depends on the prompt alone, in every task.

    Args:
        task: The task; training prompts may repeat, and count once.
        selection: The most prompts to choose by.
        test: The most held-out prompts, the first ones.

    Raises:
        TaskError: There are no held-out prompts.
    """
    if not task.test:
        raise TaskError(f"task {task.name} has no held-out prompts", "give the task a test split")
    distinct = {row_digest(sample): sample for sample in task.train}
    chosen_by: list[Sample] = []
    pool: list[Sample] = []
    for sample in distinct.values():
        (chosen_by if held_out(f"selection/{sample.prompt}", _SELECTION_SHARE) else pool).append(sample)
    chosen_by.sort(key=lambda sample: _order("selection", sample))
    return Split(task, tuple(pool), tuple(chosen_by[:selection]), tuple(task.test[:test]))


def check_disjoint(splits: Mapping[str, Split], shots: int, draws: Sequence[int]) -> None:
    """Refuse a prompt that is in two of shots, selection and test, and a row that a test has twice.

    Args:
        splits: {name of the task: its parts}.
        shots: The most shots that are drawn; 0 if none are.
        draws: Every draw of them.

    Raises:
        TaskError: Lists the first ten rows.
    """
    found = [*_overlaps(splits, shots, draws), *_duplicates(splits)]
    if found:
        more = f"; and {len(found) - _ROWS_SHOWN} more" if len(found) > _ROWS_SHOWN else ""
        raise TaskError(
            f"shots, selection and test must be different prompts, but {len(found)} rows are not: "
            f"{'; '.join(found[:_ROWS_SHOWN])}{more}",
            "remove these rows from one of the two places: from the training side of a task's data, or from the test's",
        )


def prompt_digest(sample: Sample) -> str:
    """Return the sha256 of a prompt and its images.

    Raises:
        TaskError: An image cannot be read.
    """
    return _sha256([sample.prompt.strip(), [_image_digest(path) for path in sample.images]])


def row_digest(sample: Sample) -> str:
    """Return the sha256 of a prompt, its images and its answer: the identity of a row in every table.

    Raises:
        TaskError: An image cannot be read.
    """
    return _sha256([prompt_digest(sample), sample.answer])


def _overlaps(splits: Mapping[str, Split], shots: int, draws: Sequence[int]) -> Iterator[str]:
    seen: dict[str, tuple[Part, str]] = {}
    for name, parts in splits.items():
        drawn = {row_digest(shot): shot for draw in draws for shot in parts.shots(shots, draw)}
        sides: tuple[tuple[Part, Sequence[Sample]], ...] = (
            ("test", parts.test),
            ("selection", parts.selection),
            ("shots", tuple(drawn.values())),
        )
        for part, samples in sides:
            for sample in samples:
                before, where = seen.setdefault(prompt_digest(sample), (part, f"{name} {sample.id}"))
                if before != part:
                    yield f"{_shown(sample)} is in the {before} of {where} and in the {part} of {name} {sample.id}"


def _duplicates(splits: Mapping[str, Split]) -> Iterator[str]:
    for name, parts in splits.items():
        seen: dict[str, str] = {}
        for sample in parts.test:
            first = seen.setdefault(row_digest(sample), sample.id)
            if first != sample.id:
                yield f"{_shown(sample)} is twice in the test of {name}: {first} and {sample.id}"


@lru_cache(maxsize=100_000)
def _image_digest(path: str) -> str:
    """Return the sha256 of an image's file; it is read once, though every table names its prompt by it."""
    return hashlib.sha256(read_image(path)).hexdigest()


def _order(salt: str, sample: Sample) -> str:
    return _sha256([salt, sample.prompt, sample.answer])


def _shown(sample: Sample) -> str:
    text = " ".join(sample.prompt.split())
    return repr(text if len(text) <= _CHARACTERS_SHOWN else f"{text[:_CHARACTERS_SHOWN]}...")


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
