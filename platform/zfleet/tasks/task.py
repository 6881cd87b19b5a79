"""A task: prompts, a prompt template and a reward. Plain data, so that it travels to any worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from zfleet.tasks.template import PromptTemplate


@dataclass(frozen=True)
class Sample:
    """One prompt of a task.

    Attributes:
        id: Stable within the task; seeds and rollout records are keyed by it.
        prompt: What a user would type, before the template.
        answer: The reference answer; empty when the reward needs none.
        fields: Further fields of the row, for templates and Python rewards.
    """

    id: str
    prompt: str
    answer: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


class Reward(Protocol):
    """Grades a completion: above 0 is right. The built-in graders give +1.0 or -1.0, as the paper does."""

    def __call__(self, completion: str, sample: Sample) -> float: ...


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
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    template: PromptTemplate
    reward: Reward
    max_tokens: int
    stop: tuple[str, ...] = ()
