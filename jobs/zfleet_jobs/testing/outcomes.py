"""Made-up outcomes, for tests of what is concluded from them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from zfleet_jobs.compare.outcome import Outcome


def outcomes_of(
    method: str, seeds: Sequence[Sequence[float | None]], parameters: int = 1, task: str = "t"
) -> list[Outcome]:
    """Make a method's outcomes on one task from the reward of every held-out prompt, seed by seed."""
    return [_outcome(method, seed, rewards, parameters, task) for seed, rewards in enumerate(seeds)]


def _outcome(method: str, seed: int, rewards: Sequence[float | None], parameters: int, task: str) -> Outcome:
    graded = [reward for reward in rewards if reward is not None]
    return Outcome(
        method=method,
        task=task,
        seed=seed,
        before=0.5,
        accuracy=mean(reward > 0 for reward in graded),
        reward_before=0.0,
        reward=mean(graded),
        rewards_before=(1.0, -1.0),
        rewards=tuple(rewards),
        validation=None,
        n=len(graded),
        parameters=parameters,
        samples=64,
        seconds=2.0 + seed,
        held_mib=30.0,
        peak_mib=50.0,
        curve=((1, -0.5), (2, 0.5)),
        z=None,
        code="1",
    )


def right(count: int, n: int) -> list[float]:
    """Make rewards of n prompts of which the first ``count`` are right."""
    return [1.0] * count + [-1.0] * (n - count)
