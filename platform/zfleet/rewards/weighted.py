"""A reward that is the weighted sum of several parts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from zfleet.errors import NotThisTask
from zfleet.tasks.task import Grade, Reward, Sample


@dataclass(frozen=True)
class Part:
    """One part of the sum.

    Attributes:
        name: Its name in logs.
        weight: Its value is multiplied by this.
        reward: Its grader.
    """

    name: str
    weight: float
    reward: Reward


@dataclass(frozen=True)
class Weighted:
    """Adds up the weighted parts that grade the sample; ``extracted`` comes from the first of them.

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
