"""Graders that look at the text alone, and the base class of all graders that compare with a reference.

A right answer gets +1.0 and a wrong one -1.0; ``Length`` gives a penalty.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from zfleet.rewards.numbers.extract import last_boxed
from zfleet.tasks.task import Grade, Sample, verdict


@dataclass(frozen=True)
class ReferenceGrader(ABC):
    """Compares a completion with a reference.

    Attributes:
        value: The reference; if empty, the sample's answer.
    """

    value: str = ""

    def reference(self, sample: Sample) -> str:
        """Return the reference for a sample's completions."""
        return self.value or sample.answer

    @abstractmethod
    def __call__(self, completion: str, sample: Sample) -> Grade: ...

    def check(self, reference: str) -> None:  # noqa: B027
        """Refuse a reference that no completion could meet. By default every reference is accepted.

        Raises:
            ValueError: Says what is wrong with the reference.
        """


@dataclass(frozen=True)
class Exact(ReferenceGrader):
    """Right if the completion is the reference, apart from spaces around both."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        answer, reference = completion.strip(), self.reference(sample).strip()
        right = answer == reference
        return verdict(right, answer, "it is the reference" if right else f"it is not {reference!r}")


@dataclass(frozen=True)
class Boxed(ReferenceGrader):
    r"""Right if the completion's last ``\boxed{}`` holds the reference, apart from spaces around it and case."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        boxed, reference = last_boxed(completion), self.reference(sample).strip()
        if boxed is None:
            return verdict(False, None, r"it has no \boxed{}")
        right = boxed.casefold() == reference.casefold()
        return verdict(right, boxed, "it is the reference" if right else f"it is not {reference!r}")


@dataclass(frozen=True)
class Contains(ReferenceGrader):
    """Right if the reference occurs in the completion, letter for letter; parts of words count."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        reference = self.reference(sample)
        right = reference in completion
        return verdict(right, reference if right else None, f"{reference!r} is {'' if right else 'not '}in it")


@dataclass(frozen=True)
class Regex:
    """Right if the pattern matches anywhere in the completion.

    Attributes:
        value: A pattern of Python's ``re``; flags go inside, for example ``(?i)``.
    """

    value: str

    def __call__(self, completion: str, sample: Sample) -> Grade:
        match = re.search(self.value, completion)
        if match is None:
            return verdict(False, None, f"{self.value!r} is not found in it")
        return verdict(True, match[0], f"{self.value!r} is found in it")


@dataclass(frozen=True)
class Length:
    """Penalise long answers: 0 up to a length, then falling evenly to -1 at twice that length.

    Source: the soft overlong punishment of DAPO (arXiv 2503.14476, equation 13), here in characters.

    Attributes:
        most: How many characters cost nothing.
    """

    most: int

    def __call__(self, completion: str, sample: Sample) -> Grade:
        length = len(completion)
        penalty = max(0.0, min(1.0, (length - self.most) / self.most))
        return Grade(-penalty if penalty else 0.0, None, f"{length} characters, {self.most} are free")
