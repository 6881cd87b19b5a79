"""Assign prompts to the sides of a split: training, validation or test."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import replace

from zfleet.errors import TaskError
from zfleet.tasks.indexed import select
from zfleet.tasks.task import Sample, Task


def held_out(prompt: str, fraction: float) -> bool:
    """Return whether a prompt is held out. This depends on the prompt alone: rows added later move no other row."""
    digest = hashlib.sha256(prompt.strip().encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def set_aside(task: Task, count: int) -> tuple[Task, Sequence[Sample]]:
    """Split about ``count`` training prompts off a task, for validation; return the rest and the validation samples.

    All samples of one prompt go to the same side, which depends on the prompt alone.

    Raises:
        TaskError: One of the two sides would be empty.
    """
    if not count:
        return task, ()
    sides = (array("q"), array("q"))
    fraction = min(count / max(len(task.train), 1), 1.0)
    for place, sample in enumerate(task.train):
        sides[held_out(f"validation/{sample.prompt}", fraction)].append(place)
    for side, places in zip(("train", "validation"), sides, strict=True):
        if not places:
            raise TaskError(
                f"task {task.name} has an empty {side} split: {len(task.train)} training prompts, "
                f"validation_samples {count}",
                "add prompts, or change learner.validation_samples",
            )
    train, validation = (select(task.train, places) for places in sides)
    return replace(task, train=train), validation
