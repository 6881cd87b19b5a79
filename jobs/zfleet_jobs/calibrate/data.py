"""The prompts of a calibration: examples, those that calibrate, and those that are measured, all different."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zfleet.adapt.calibrate import LabelledPrompt
from zfleet.errors import TaskError
from zfleet.evaluate.splits import split
from zfleet.tasks.task import Sample, Task


@dataclass(frozen=True)
class CalibrationData:
    """Prompts by what they are for. No prompt is in two of them.

    Attributes:
        examples: {label: prompts}, which prompts are compared with: training prompts.
        validation: Prompts that calibrate: those training prompts by which evaluations select.
        test: Held-out prompts, which the calibrated dispatcher is measured on.
    """

    examples: Mapping[str, Sequence[str]]
    validation: Sequence[LabelledPrompt]
    test: Sequence[LabelledPrompt]

    @classmethod
    def of(cls, tasks: Mapping[str, Task], examples: int, prompts: int) -> CalibrationData:
        """Select prompts, by the same split as evaluations: what they report on has calibrated nothing.

        Args:
            tasks: {label: a task whose prompts all have this label}.
            examples: The most examples of each label.
            prompts: The most prompts of each label that calibrate, and that are measured.

        Raises:
            TaskError: A prompt has images, or two labels, or is both a training prompt and held out.
        """
        splits = {label: split(task, prompts, prompts) for label, task in tasks.items()}
        seen: dict[str, str] = {}
        return cls(
            {label: _distinct(one.pool, f"an example of {label!r}", seen)[:examples] for label, one in splits.items()},
            [
                LabelledPrompt(prompt, label)
                for label, one in splits.items()
                for prompt in _distinct(one.selection, f"a validation prompt of {label!r}", seen)
            ],
            [
                LabelledPrompt(prompt, label)
                for label, one in splits.items()
                for prompt in _distinct(one.test, f"a held-out prompt of {label!r}", seen)
            ],
        )


def _distinct(samples: Sequence[Sample], what: str, seen: dict[str, str]) -> list[str]:
    """Return the different prompts, and note what each of them is."""
    for sample in samples:
        if sample.images:
            raise TaskError(f"sample {sample.id} has images", "dispatchers look at texts: take a task without images")
        if seen.setdefault(sample.prompt, what) != what:
            raise TaskError(
                f"prompt {sample.prompt[:80]!r} is {seen[sample.prompt]} and {what}",
                "leave it out of one of the tasks, or of one side of its task",
            )
    return list(dict.fromkeys(sample.prompt for sample in samples))
