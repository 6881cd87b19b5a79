"""The grader of word problems: one number is right."""

from __future__ import annotations

from dataclasses import dataclass

from zfleet.rewards.comparing import Comparing
from zfleet.rewards.extract import final_number
from zfleet.tasks.task import Grade, Sample, verdict


@dataclass(frozen=True)
class Number(Comparing):
    """Right if the completion ends with the reference's number: see ``final_number``. 18, 18.0 and $18 are the same."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        reference = final_number(self.reference(sample))
        number = final_number(completion)
        if number is None:
            return verdict(False, None, "no number in it")
        right = number == reference
        return verdict(right, f"{number}", f"{number} {'is' if right else 'is not'} {reference}")
