"""The penalty of long answers, as a part of a reward."""

from __future__ import annotations

from dataclasses import dataclass

from zfleet.tasks.task import Grade, Sample


@dataclass(frozen=True)
class Length:
    """0 up to a length, then falling evenly to -1 at twice that length.

    After the soft overlong punishment of DAPO (arXiv 2503.14476, equation 13), in characters.

    Attributes:
        most: Characters that cost nothing.
    """

    most: int

    def __call__(self, completion: str, sample: Sample) -> Grade:
        length = len(completion)
        penalty = max(0.0, min(1.0, (length - self.most) / self.most))
        return Grade(-penalty if penalty else 0.0, None, f"{length} characters, {self.most} are free")
