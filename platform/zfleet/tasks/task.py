"""A task: prompts, a prompt template and a reward. It is plain data, so that it can be sent to any worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from zfleet.errors import TaskError
from zfleet.files import read_or
from zfleet.tasks.template import PromptTemplate


@dataclass(frozen=True)
class Sample:
    """One prompt of a task.

    Attributes:
        id: Stable within the task; seeds and rollout records are keyed by it.
        prompt: The text that a user would type, before the template.
        answer: The reference answer; empty if the reward needs none.
        fields: Further fields of the row, for templates and Python rewards.
        images: Files of the prompt's images, on a path that every worker can read.
    """

    id: str
    prompt: str
    answer: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()

    def read_images(self) -> tuple[bytes, ...]:
        """Read the sample's image files.

        Raises:
            TaskError: A file cannot be read on this machine.
        """
        return tuple(map(read_image, self.images))


@dataclass(frozen=True)
class Grade:
    """A grader's judgement of a completion.

    Attributes:
        value: The reward; above 0 is right. Graders that know right and wrong give +1.0 or -1.0, as the paper does.
        extracted: The answer that the grader found in the completion; None if it found or sought none.
        reason: Why, for people.
        parts: The value of each part, if the reward has several.
    """

    value: float
    extracted: str | None = None
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether the completion counts as right."""
        return self.value > 0


@dataclass(frozen=True)
class Ungraded:
    """Replaces a grade: the reward failed, could not tell, or said that the sample belongs to another task.

    Attributes:
        reason: Why, for people.
        undecided: Whether the reward could not tell if this answer is right. It may grade another answer to the sample.
    """

    reason: str
    undecided: bool = False


def verdict(right: bool, extracted: str | None, reason: str) -> Grade:
    """Make the grade of an answer that is right (+1.0) or wrong (-1.0)."""
    return Grade(1.0 if right else -1.0, extracted, reason)


class Reward(Protocol):
    """Grades a completion. It is plain data, so that it can be sent; each process starts its own sandboxes."""

    def __call__(self, completion: str, sample: Sample) -> Grade: ...


@dataclass(frozen=True)
class Task:
    """The data and the reward that an expert is trained and measured with.

    Attributes:
        name: The task's name in specs, registries and reports.
        train: Prompts to learn from.
        test: Held-out prompts; never trained on, never searched on.
        template: Turns a sample's prompt into token ids.
        reward: Grades completions.
        max_tokens: The longest answer, in tokens.
        stop: Strings that end an answer.
    """

    name: str
    train: Sequence[Sample]
    test: Sequence[Sample]
    template: PromptTemplate
    reward: Reward
    max_tokens: int
    stop: tuple[str, ...] = ()

    def prompt(self, tokenizer: PreTrainedTokenizerBase, sample: Sample) -> tuple[int, ...]:
        """Return the token ids of a sample's prompt, with one image token for each of its images.

        Raises:
            TaskError: As ``PromptTemplate.render``.
        """
        return self.template.render(tokenizer, sample.prompt, sample.fields, len(sample.images))


def read_image(path: str) -> bytes:
    """Read one image file.

    Raises:
        TaskError: It cannot be read on this machine.
    """
    remedy = "images are not copied: put them on a path that every machine of the cluster can read"
    return read_or(Path(path), lambda error: TaskError(f"image {path} cannot be read here: {error}", remedy))
