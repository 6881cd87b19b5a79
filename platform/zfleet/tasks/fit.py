"""Find the prompts of a task that fit into a base's context. The others are counted and named, never cut."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from zfleet.errors import InvalidRequest, TaskError
from zfleet.models.images import ImageReader
from zfleet.tasks.indexed import select
from zfleet.tasks.task import Sample, Task


@dataclass(frozen=True)
class FitReport:
    """A task whose prompts all fit, and the samples that were left out.

    Attributes:
        task: The task without the samples that do not fit.
        left_out: The ids of the samples that do not fit.
        checked: How many samples were measured.
        longest: Length of the longest sample, prompt and longest answer, in tokens; includes samples that do not fit.
        max_length: The limit, in tokens.
    """

    task: Task
    left_out: tuple[str, ...]
    checked: int
    longest: int
    max_length: int

    def __str__(self) -> str:
        if not self.left_out:
            return f"all {self.checked} prompts of {self.task.name} fit into {self.max_length} tokens"
        return (
            f"{len(self.left_out)} of {self.checked} prompts of {self.task.name} are left out: with max_tokens "
            f"{self.task.max_tokens} they exceed {self.max_length} tokens (the longest takes {self.longest})"
        )


def fit_prompts(
    task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int, reader: ImageReader | None = None
) -> FitReport:
    """Leave out the samples whose rendered prompt and longest answer exceed ``max_length`` tokens.

    Args:
        reader: Reads images for the base; None if the base takes no images.

    Raises:
        TaskError: No sample of a split fits, the template cannot be filled, or a prompt has images that the base
            cannot take.
    """

    def length(sample: Sample) -> int:
        return prompt_length(task, tokenizer, sample, reader) + task.max_tokens

    fitted: dict[str, Sequence[Sample]] = {}
    left_out: list[str] = []
    longest = 0
    for side, samples in (("train", task.train), ("test", task.test)):
        fitting = array("q")
        shortest = None
        for place, sample in enumerate(samples):
            needed = length(sample)
            longest = max(longest, needed)
            shortest = needed if shortest is None else min(shortest, needed)
            if needed <= max_length:
                fitting.append(place)
            else:
                left_out.append(sample.id)
        if samples and not fitting:
            raise TaskError(
                f"no {side} prompt of {task.name} fits: with max_tokens {task.max_tokens} the shortest takes "
                f"{shortest} tokens, the limit is {max_length}",
                "lower max_tokens, shorten the prompts, raise engine.max_length, or take a base with a longer context",
            )
        fitted[side] = samples if len(fitting) == len(samples) else select(samples, fitting)
    fit = replace(task, train=fitted["train"], test=fitted["test"])
    return FitReport(fit, tuple(left_out), len(task.train) + len(task.test), longest, max_length)


def prompt_length(
    task: Task, tokenizer: PreTrainedTokenizerBase, sample: Sample, reader: ImageReader | None = None
) -> int:
    """Return the length of a sample's rendered prompt, images included, in tokens.

    Raises:
        TaskError: As ``fit_prompts``.
    """
    return len(_spread(reader, task.prompt(tokenizer, sample), sample))


def _spread(reader: ImageReader | None, prompt: tuple[int, ...], sample: Sample) -> tuple[int, ...]:
    if reader is None:
        if sample.images:
            raise TaskError(
                f"sample {sample.id} has images, this base takes none", "set base.model to a vision-language model"
            )
        return prompt
    try:
        return reader.spread(prompt, sample.read_images())
    except InvalidRequest as error:
        raise TaskError(f"sample {sample.id} ({', '.join(sample.images)}): {error.message}", error.remedy) from error


def data_digest(task: Task) -> str:
    """Return the sha256 of a task's samples and their split. A registered expert records it as its training data."""
    state = hashlib.sha256()
    for side, samples in (("train", task.train), ("test", task.test)):
        for sample in samples:
            row = [side, sample.id, sample.prompt, sample.answer, dict(sample.fields)]
            row += [hashlib.sha256(image).hexdigest() for image in sample.read_images()]
            state.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return state.hexdigest()
