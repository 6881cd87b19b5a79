"""What of a task a base can take: prompts that do not fit are counted and named, never cut."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from zfleet.errors import TaskError
from zfleet.tasks.task import Sample, Task


@dataclass(frozen=True)
class FitReport:
    """A task that fits, and what had to be left out of it.

    Attributes:
        task: The task without the samples that do not fit.
        left_out: Ids of those samples.
        checked: How many samples were measured.
        longest: The most that a sample takes, prompt and longest answer, in tokens; left-out ones included.
        max_length: The most that fits, in tokens.
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


def fit_prompts(task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int) -> FitReport:
    """Leave out the samples whose rendered prompt and longest answer exceed ``max_length`` tokens.

    Raises:
        TaskError: Nothing is left of a split, or the template cannot be filled.
    """

    def length(sample: Sample) -> int:
        return len(task.template.render(tokenizer, sample.prompt, sample.fields)) + task.max_tokens

    lengths = {sample.id: length(sample) for sample in (*task.train, *task.test)}
    fitting = replace(
        task,
        train=tuple(sample for sample in task.train if lengths[sample.id] <= max_length),
        test=tuple(sample for sample in task.test if lengths[sample.id] <= max_length),
    )
    for side, before, after in (("train", task.train, fitting.train), ("test", task.test, fitting.test)):
        if before and not after:
            raise TaskError(
                f"no {side} prompt of {task.name} fits: with max_tokens {task.max_tokens} the shortest takes "
                f"{min(lengths[sample.id] for sample in before)} tokens, the limit is {max_length}",
                "lower max_tokens, shorten the prompts, raise engine.max_length, or take a base with a longer context",
            )
    left_out = tuple(sample for sample, needed in lengths.items() if needed > max_length)
    return FitReport(fitting, left_out, len(lengths), max(lengths.values(), default=0), max_length)


def data_digest(task: Task) -> str:
    """sha256 of a task's samples and their split: what a registered expert says it was trained on."""
    state = hashlib.sha256()
    for side, samples in (("train", task.train), ("test", task.test)):
        for sample in samples:
            row = [side, sample.id, sample.prompt, sample.answer, dict(sample.fields)]
            state.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return state.hexdigest()
