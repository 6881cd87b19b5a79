"""What graders that compare have in common: the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from zfleet.tasks.task import Grade, Sample


@dataclass(frozen=True)
class Comparing(ABC):
    """Compares a completion with a reference.

    Attributes:
        value: The reference; empty: the sample's answer.
    """

    value: str = ""

    def reference(self, sample: Sample) -> str:
        """What a completion is compared with."""
        return self.value or sample.answer

    @abstractmethod
    def __call__(self, completion: str, sample: Sample) -> Grade: ...

    def check(self, reference: str) -> None:  # noqa: B027
        """Refuse a reference that no completion could meet; most graders take any.

        Raises:
            ValueError: Says what is wrong with it.
        """
