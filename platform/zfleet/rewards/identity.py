"""What a reward is, as text: two runs may share results only where this is equal."""

from __future__ import annotations

import hashlib
import inspect
import sys

from zfleet.rewards.python import PythonReward
from zfleet.rewards.weighted import Weighted
from zfleet.tasks.task import Reward


def reward_identity(reward: Reward) -> str:
    """The grader and its values; of a Python reward also a digest of its module's source.

    A function of the same name that was edited since is another reward.

    Raises:
        SpecError: A Python reward whose name leads to no function.
    """
    if isinstance(reward, Weighted):
        return " + ".join(f"{part.name} {part.weight} {reward_identity(part.reward)}" for part in reward.parts)
    if not isinstance(reward, PythonReward):
        return repr(reward)
    function = reward.resolved()
    try:
        source = inspect.getsource(sys.modules[function.__module__])
    except (OSError, TypeError, KeyError):
        return repr(reward)  # compiled: it changes with an installation, not with an edit
    return f"{reward!r} {hashlib.sha256(source.encode()).hexdigest()}"
