"""The prompts of a calibration: examples, those that calibrate, and those that are measured, all different."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zfleet.adapt.calibrate import LabelledPrompt
from zfleet.errors import TaskError
from zfleet.tasks.split import held_out
from zfleet.tasks.task import Sample, Task


@dataclass(frozen=True)
class CalibrationData:
    """Prompts by what they are for. No prompt is in two of them.

    Attributes:
        examples: {label: training prompts}, which prompts are compared with.
        validation: Held-out prompts that calibrate.
        test: Held-out prompts that the calibrated dispatcher is measured on.
    """

    examples: Mapping[str, Sequence[str]]
    validation: Sequence[LabelledPrompt]
    test: Sequence[LabelledPrompt]

    @classmethod
    def of(cls, tasks: Mapping[str, Task], examples: int, prompts: int) -> CalibrationData:
        """Select prompts.

        Args:
            tasks: {label: a task whose prompts all have this label}.
            examples: How many training prompts of each label, if it has so many.
            prompts: How many held-out prompts of each label, if it has so many. The side of each depends on the prompt
                alone, so that other jobs can leave out those that calibrate (``calibrates``).

        Raises:
            TaskError: A prompt has images, or two labels, or is both held out and a training prompt.
        """
        seen: dict[str, tuple[str, str]] = {}
        found = {label: _distinct("training", task.train, examples, label, seen) for label, task in tasks.items()}
        held = [
            LabelledPrompt(prompt, label)
            for label, task in tasks.items()
            for prompt in _distinct("held-out", task.test, prompts, label, seen)
        ]
        validation = [one for one in held if calibrates(one.prompt)]
        return cls(found, validation, [one for one in held if not calibrates(one.prompt)])


def calibrates(prompt: str) -> bool:
    """Return whether a held-out prompt calibrates dispatchers; they are measured on the others."""
    return held_out(f"dispatcher/{prompt}", 0.5)


def _distinct(
    side: str, samples: Sequence[Sample], count: int, label: str, seen: dict[str, tuple[str, str]]
) -> list[str]:
    """Return the first different prompts; note the label and the side of each."""
    prompts: dict[str, None] = {}
    for sample in samples:
        if len(prompts) == count:
            break
        if sample.images:
            raise TaskError(f"sample {sample.id} has images", "dispatchers look at texts: take a task without images")
        label_before, side_before = seen.setdefault(sample.prompt, (label, side))
        if (label_before, side_before) != (label, side):
            raise TaskError(
                f"prompt {sample.prompt[:80]!r} is a {side_before} prompt of label {label_before!r} and a {side} "
                f"prompt of label {label!r}",
                "leave it out of one of the tasks",
            )
        prompts[sample.prompt] = None
    return list(prompts)
