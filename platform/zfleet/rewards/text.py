"""Graders that compare texts: +1.0 is right, -1.0 is wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass

from zfleet.rewards.comparing import Comparing
from zfleet.rewards.numbers.extract import last_boxed
from zfleet.tasks.task import Grade, Sample, verdict


@dataclass(frozen=True)
class Exact(Comparing):
    """Right if the completion is the reference, spaces around both aside."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        answer, reference = completion.strip(), self.reference(sample).strip()
        right = answer == reference
        return verdict(right, answer, "it is the reference" if right else f"it is not {reference!r}")


@dataclass(frozen=True)
class Boxed(Comparing):
    r"""Right if the completion's last ``\boxed{}`` holds the reference, spaces and case aside."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        boxed, reference = last_boxed(completion), self.reference(sample).strip()
        if boxed is None:
            return verdict(False, None, r"it has no \boxed{}")
        right = boxed.casefold() == reference.casefold()
        return verdict(right, boxed, "it is the reference" if right else f"it is not {reference!r}")


@dataclass(frozen=True)
class Contains(Comparing):
    """Right if the reference occurs in the completion, letter for letter; parts of words count."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        reference = self.reference(sample)
        right = reference in completion
        return verdict(right, reference if right else None, f"{reference!r} is {'' if right else 'not '}in it")


@dataclass(frozen=True)
class Regex:
    """Right if the pattern is found anywhere in the completion.

    Attributes:
        value: A pattern of Python's ``re``; flags go inside, as ``(?i)``.
    """

    value: str

    def __call__(self, completion: str, sample: Sample) -> Grade:
        found = re.search(self.value, completion)
        if found is None:
            return verdict(False, None, f"{self.value!r} is not found in it")
        return verdict(True, found[0], f"{self.value!r} is found in it")
