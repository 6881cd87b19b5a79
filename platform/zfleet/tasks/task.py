"""A task: prompts, a prompt template and a reward. Plain data, so that it travels to any worker."""

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
        prompt: What a user would type, before the template.
        answer: The reference answer; empty when the reward needs none.
        fields: Further fields of the row, for templates and Python rewards.
        images: Files of the prompt's images, on a path that every worker sees.
    """

    id: str
    prompt: str
    answer: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()

    def read_images(self) -> tuple[bytes, ...]:
        """What its images' files hold.

        Raises:
            TaskError: A file cannot be read here.
        """
        return tuple(map(_read_image, self.images))


@dataclass(frozen=True)
class Grade:
    """What a grader says of a completion.

    Attributes:
        value: The reward; above 0 is right. Graders that know right and wrong give +1.0 or -1.0, as the paper does.
        extracted: What it took for the completion's answer; None where it found none, or looks for none.
        reason: Why, for people.
        parts: Of a reward of several parts, the value of each.
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
    """In the place of a grade: the reward failed, could not tell, or said that the sample is none of its task's.

    Attributes:
        reason: Why, for people.
        undecided: The reward cannot tell whether this answer is right; another answer to the same sample it may grade.
    """

    reason: str
    undecided: bool = False


def verdict(right: bool, extracted: str | None, reason: str) -> Grade:
    """Right or wrong."""
    return Grade(1.0 if right else -1.0, extracted, reason)


class Reward(Protocol):
    """Grades a completion. Plain data, so that it travels; what it runs on is this process's own."""

    def __call__(self, completion: str, sample: Sample) -> Grade: ...


@dataclass(frozen=True)
class Task:
    """What an expert is trained on and measured by.

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
        """The token ids that a base is given for a sample, with one image token for each of its images.

        Raises:
            TaskError: As ``PromptTemplate.render``.
        """
        return self.template.render(tokenizer, sample.prompt, sample.fields, len(sample.images))


def _read_image(path: str) -> bytes:
    remedy = "images stay where they are: put them on a path that every machine of the cluster sees"
    return read_or(Path(path), lambda error: TaskError(f"image {path} cannot be read here: {error}", remedy))
