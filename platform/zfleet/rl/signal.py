"""Which samples a step learns from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from zfleet.config.learner import LearnerSpec
from zfleet.rl.rollout import Rollout
from zfleet.tasks.task import Grade


def teaching(spec: LearnerSpec, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The samples that a spec learns from, in their order: of those that have a grade.

    Left out may also be answers cut at ``max_tokens`` (arXiv 2503.14476, section 3.4), and prompts whose answers all
    have one reward, from which estimators of groups learn nothing (there, section 3.2; here none are drawn anew).
    """
    kept = [rollout for rollout in rollouts if isinstance(rollout.grade, Grade)]
    if spec.truncated == "leave_out":
        kept = [rollout for rollout in kept if rollout.finish != "length"]
    if spec.equal_groups == "keep":
        return kept
    rewards: dict[int, set[float]] = defaultdict(set)
    for rollout in kept:
        rewards[rollout.group].add(rollout.reward)
    return [rollout for rollout in kept if len(rewards[rollout.group]) > 1]
