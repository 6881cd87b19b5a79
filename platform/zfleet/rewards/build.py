"""From a reward in a spec to the function that grades."""

from __future__ import annotations

import re

from zfleet.config.specs import RewardSpec
from zfleet.errors import SpecError
from zfleet.rewards.graders import Choice, Contains, Exact, Regex
from zfleet.rewards.python import PythonReward, resolve
from zfleet.tasks.task import Reward


def build_reward(spec: RewardSpec) -> Reward:
    """The reward a spec names, checked here so that no worker finds out first.

    Raises:
        SpecError: A pattern that does not compile, or a function that cannot be imported.
    """
    match spec.kind:
        case "exact":
            return Exact(spec.value)
        case "contains":
            return Contains(spec.value)
        case "choice":
            return Choice(spec.value)
        case "regex":
            _check_pattern(spec.value)
            return Regex(spec.value)
        case "python":
            resolve(spec.value)
            return PythonReward(spec.value)


def needs_answer(spec: RewardSpec) -> bool:
    """Whether the reward compares with the row's answer: without one it would call any answer right, or none."""
    return spec.kind in ("exact", "contains", "choice") and not spec.value


def _check_pattern(pattern: str) -> None:
    if not pattern:
        raise SpecError("reward.value is empty: it would match every completion", "give the pattern to look for")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise SpecError(
            f"reward.value is {pattern!r}, which is no regular expression: {error}",
            "mend the pattern; a literal \\ . ( [ * + ? needs a backslash before it",
        ) from error
