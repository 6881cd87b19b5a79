"""What a reward runs on: how many answers it grades at once, and whether that is there."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator

from zfleet.rewards.program import Program
from zfleet.rewards.python import PythonReward
from zfleet.rewards.sandbox.sandbox import shared_sandbox
from zfleet.rewards.weighted import Weighted
from zfleet.tasks.task import Reward

_ASYNC = 64
"""Calls of an async function that wait together."""


def graded_at_once(reward: Reward) -> int:
    """At least 1: more where a reward waits for other processes or servers.

    A user's plain function is called by one thread at a time, and what it is added to with it.
    """
    each = [_at_once(grader) for grader in graders(reward)]
    plain = any(isinstance(grader, PythonReward) and n == 1 for grader, n in zip(graders(reward), each, strict=True))
    return 1 if plain else max(each)


def check_reward(reward: Reward) -> None:
    """Try what a reward runs on.

    Raises:
        SandboxError: It grades programs, and no sandbox can be made here.
    """
    for grader in graders(reward):
        if isinstance(grader, Program):
            shared_sandbox(grader.limits, grader.isolation)


def graders(reward: Reward) -> Iterator[Reward]:
    """The reward itself, or its parts."""
    if isinstance(reward, Weighted):
        yield from (part.reward for part in reward.parts)
    else:
        yield reward


def _at_once(grader: Reward) -> int:
    if isinstance(grader, Program):
        return max(2, os.cpu_count() or 2)
    if isinstance(grader, PythonReward) and inspect.iscoroutinefunction(grader.resolved()):
        return _ASYNC
    return 1
