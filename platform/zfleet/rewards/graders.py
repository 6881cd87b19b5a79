"""Graders: functions of a completion and its sample."""

from __future__ import annotations

from dataclasses import dataclass

from zfleet.tasks.task import Sample


@dataclass(frozen=True)
class Exact:
    """+1.0 if the completion is the reference answer, spaces around it aside; else -1.0."""

    def __call__(self, completion: str, sample: Sample) -> float:
        return 1.0 if completion.strip() == sample.answer.strip() else -1.0
