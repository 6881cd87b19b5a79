"""The grader of word problems: exactly one number is right."""

from __future__ import annotations

from dataclasses import dataclass

from zfleet.rewards.numbers.extract import final_number
from zfleet.rewards.numbers.numerals import spelled
from zfleet.rewards.text import ReferenceGrader
from zfleet.tasks.task import Grade, Sample, verdict


@dataclass(frozen=True)
class Number(ReferenceGrader):
    r"""Right if the completion ends with exactly the reference's number: see ``final_number``.

    Spelling does not matter: 18, 18.0, $18 and ``\frac{36}{2}`` are the same.
    """

    def check(self, reference: str) -> None:
        if final_number(reference) is None:
            raise ValueError(f"{reference[:80]!r} holds no number")

    def __call__(self, completion: str, sample: Sample) -> Grade:
        reference = final_number(self.reference(sample))
        number = final_number(completion)
        if number is None:
            return verdict(False, None, "it ends with no number")
        right = number == reference
        extracted = spelled(number)
        return verdict(right, extracted, f"{extracted} {'is' if right else 'is not'} {self.reference(sample)}")
