"""What a reward runs on: how many answers it grades at once, and whether that is there."""

from __future__ import annotations

from collections.abc import Iterator

from zfleet.rewards.programs.program import Program
from zfleet.rewards.python import PythonReward
from zfleet.rewards.sandbox.sandbox import AT_ONCE, shared_sandbox
from zfleet.rewards.weighted import Weighted
from zfleet.tasks.task import Reward

_ASYNC = 64
"""Calls of an async function that wait together."""


def graded_at_once(reward: Reward) -> int:
    """At least 1: more where a reward waits for other processes or servers.

    A user's plain function is called by one thread at a time, and what it is added to with it.
    """
    if any(isinstance(grader, PythonReward) and not grader.waits for grader in graders(reward)):
        return 1
    return max(map(_at_once, graders(reward)))


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
        return AT_ONCE
    return _ASYNC if isinstance(grader, PythonReward) else 1
