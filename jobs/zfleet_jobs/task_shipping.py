"""Sending a task to workers: rewards that only the driver can import travel as code."""

from __future__ import annotations

import sys
from dataclasses import replace

import ray

from zfleet.rewards.python import PythonReward, resolve
from zfleet.rewards.weighted import Weighted
from zfleet.tasks.task import Reward, Task


def by_value(task: Task) -> Task:
    """A task whose Python rewards travel as code: only the driver can import their modules."""
    return replace(task, reward=_by_value(task.reward))


def _by_value(reward: Reward) -> Reward:
    if isinstance(reward, Weighted):
        return Weighted(tuple(replace(part, reward=_by_value(part.reward)) for part in reward.parts))
    if not isinstance(reward, PythonReward):
        return reward
    function = resolve(reward.name)
    ray.cloudpickle.register_pickle_by_value(sys.modules[function.__module__])  # type: ignore[no-untyped-call]
    return replace(reward, function=function)
