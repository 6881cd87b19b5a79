"""What graders that compare have in common: the reference."""

from __future__ import annotations

from dataclasses import dataclass

from zfleet.tasks.task import Sample


@dataclass(frozen=True)
class Comparing:
    """Compares a completion with a reference.

    Attributes:
        value: The reference; empty: the sample's answer.
    """

    value: str = ""

    def reference(self, sample: Sample) -> str:
        """What a completion is compared with."""
        return self.value or sample.answer
