"""A reward of several parts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from zfleet.errors import NotThisTask
from zfleet.tasks.task import Grade, Reward, Sample


@dataclass(frozen=True)
class Part:
    """One component.

    Attributes:
        name: What logs call it.
        weight: What its value is multiplied with.
        reward: Its grader.
    """

    name: str
    weight: float
    reward: Reward


@dataclass(frozen=True)
class Weighted:
    """The sum of weighted parts, of those that grade the sample. What was extracted is the first part's.

    Raises:
        NotThisTask: No part grades the sample.
    """

    parts: tuple[Part, ...]

    def __call__(self, completion: str, sample: Sample) -> Grade:
        grades: dict[str, Grade] = {}
        for part in self.parts:
            with suppress(NotThisTask):
                grades[part.name] = part.reward(completion, sample)
        if not grades:
            raise NotThisTask(f"no part of the reward grades sample {sample.id}")
        return Grade(
            sum(part.weight * grades[part.name].value for part in self.parts if part.name in grades),
            next(iter(grades.values())).extracted,
            "; ".join(f"{name} {grade.value:g}: {grade.reason}" for name, grade in grades.items()),
            {name: grade.value for name, grade in grades.items()},
        )


def part_names(reward: Reward) -> tuple[str, ...]:
    """The names of a reward's parts; none where it has one value alone."""
    return tuple(part.name for part in reward.parts) if isinstance(reward, Weighted) else ()
