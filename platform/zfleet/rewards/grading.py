"""What a job asks of its reward: grade many answers, check that the reward can run here, and identify it."""

from __future__ import annotations

import hashlib
import inspect
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from zfleet.errors import CannotTell, NotThisTask, RewardError
from zfleet.rewards.programs.grader import Program
from zfleet.rewards.python import PythonReward
from zfleet.rewards.sandbox.sandbox import AT_ONCE, shared_sandbox
from zfleet.rewards.weighted import Weighted
from zfleet.tasks.task import Grade, Reward, Sample, Ungraded

log = logging.getLogger(__name__)

_ASYNC_CALLS = 64
"""How many calls of an async function wait together."""


def grade_all(
    reward: Reward, answers: Sequence[tuple[Sample, str]], skip_failed: bool = False
) -> list[Grade | Ungraded]:
    """Grade each answer, in order; ``Ungraded`` if its sample is of another task or nobody can judge the answer.

    Args:
        skip_failed: If the reward function fails, leave that answer ungraded with a warning.

    Raises:
        RewardError: A function failed; names the sample.
    """

    def grade(answer: tuple[Sample, str]) -> Grade | Ungraded:
        sample, text = answer
        try:
            return reward(text, sample)
        except NotThisTask as error:
            return Ungraded(error.message)
        except CannotTell as error:
            log.warning("answer left out: %s", error)
            return Ungraded(error.message, undecided=True)
        except RewardError as error:
            if not skip_failed:
                raise
            log.warning("sample left out: %s", error)
            return Ungraded(error.message)

    concurrency = max_concurrency(reward)
    if concurrency == 1:
        return [grade(answer) for answer in answers]
    with ThreadPoolExecutor(concurrency, "zfleet-grade") as threads:
        return list(threads.map(grade, answers))


def max_concurrency(reward: Reward) -> int:
    """How many answers the reward grades at once: more than 1 if it waits for other processes or servers.

    A user's plain function need not be thread-safe: one thread at a time calls it, and any sum that it is a part of.
    """
    parts = _graders(reward)
    if any(isinstance(grader, PythonReward) and not grader.waits for grader in parts):
        return 1
    return max(map(_grader_concurrency, parts))


def check_reward(reward: Reward) -> None:
    """Start the sandbox if the reward needs one, so that a job fails before its first step.

    Raises:
        SandboxError: The reward grades programs, and this machine cannot make a sandbox.
    """
    for grader in _graders(reward):
        if isinstance(grader, Program):
            shared_sandbox(grader.limits, grader.isolation)


def reward_identity(reward: Reward) -> str:
    """Describe a reward as text: two runs may share results only if this text is equal.

    It holds the grader and its values, and for a Python reward a digest of its module's source: a function of the same
    name that was edited since is another reward.

    Raises:
        SpecError: The name of a Python reward leads to no function.
    """
    if isinstance(reward, Weighted):
        return " + ".join(f"{part.name} {part.weight} {reward_identity(part.reward)}" for part in reward.parts)
    if not isinstance(reward, PythonReward):
        return repr(reward)
    function = reward.resolved()
    try:
        source = inspect.getsource(sys.modules[function.__module__])
    except (OSError, TypeError, KeyError):
        return repr(reward)  # A compiled module changes when it is installed, not when a file is edited.
    return f"{reward!r} {hashlib.sha256(source.encode()).hexdigest()}"


def part_names(reward: Reward) -> tuple[str, ...]:
    """Return the names of a reward's parts; empty if it has a single value."""
    return tuple(part.name for part in reward.parts) if isinstance(reward, Weighted) else ()


def _graders(reward: Reward) -> list[Reward]:
    """Return the graders of a reward's parts; the reward itself if it has none."""
    return [part.reward for part in reward.parts] if isinstance(reward, Weighted) else [reward]


def _grader_concurrency(grader: Reward) -> int:
    if isinstance(grader, Program):
        return AT_ONCE
    return _ASYNC_CALLS if isinstance(grader, PythonReward) else 1
