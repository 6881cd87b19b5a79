"""A family of generated prompts: how one is drawn, and how its answers are graded."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zfleet.tasks.task import Reward


@dataclass(frozen=True)
class Question:
    """One prompt of a family.

    Attributes:
        prompt: What a user would type.
        answer: The reference answer.
        fields: What else the family's reward reads.
    """

    prompt: str
    answer: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Prompts of one kind.

    Attributes:
        name: The name of its task.
        label: One word that says what kind of request it is: what a classifier answers.
        draw: Draws a question; the same state of the generator gives the same question.
        reward: Grades answers.
        max_tokens: The longest answer, in tokens: a few more than the longest right one.
    """

    name: str
    label: str
    draw: Callable[[random.Random], Question]
    reward: Reward
    max_tokens: int
