"""Which samples a step learns from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from zfleet.config.learner import LearnerSpec
from zfleet.rl.rollout import Rollout


def teaching(spec: LearnerSpec, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The samples that a spec learns from, in their order.

    Left out may be answers cut at ``max_tokens`` (arXiv 2503.14476, section 3.4), and prompts whose answers all have
    one reward, from which estimators of groups learn nothing (there, section 3.2; here none are drawn anew).
    """
    kept = [rollout for rollout in rollouts if spec.truncated == "grade" or rollout.finish != "length"]
    if spec.equal_groups == "keep":
        return kept
    rewards: dict[int, set[float]] = defaultdict(set)
    for rollout in kept:
        rewards[rollout.group].add(rollout.grade.value)
    return [rollout for rollout in kept if len(rewards[rollout.group]) > 1]
