"""Advantage estimators: pure functions from rewards [N] to advantages [N]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Means:
    """Mean rewards over all workers, which samples are compared with.

    Attributes:
        step: Of the samples of this step.
        earlier: Of the steps before, later ones counting more; 0 before the first.
    """

    step: float
    earlier: float


Estimator = Callable[[Tensor, Tensor, Means], Tensor]
"""From rewards [N], groups [N] int (which prompt each sample answers) and means to advantages [N]."""


def reinforce(rewards: Tensor, groups: Tensor, means: Means) -> Tensor:
    """Take the reward itself, +1 or -1, with no baseline: as the paper does (arXiv 2501.06252, section 3.2)."""
    return rewards.clone()


def ema(rewards: Tensor, groups: Tensor, means: Means) -> Tensor:
    """Subtract the moving average of the steps before: reinforcement comparison (Williams 1992, section 4)."""
    return rewards - means.earlier


def batch(rewards: Tensor, groups: Tensor, means: Means) -> Tensor:
    """Subtract the mean of the step, over all prompts and workers (arXiv 2501.03262)."""
    return rewards - means.step


def rloo(rewards: Tensor, groups: Tensor, means: Means) -> Tensor:
    """Leave one out: subtract the mean of the other samples of the prompt (arXiv 2402.14740).

    A sample that is alone in its group has nothing to compare with: its advantage is 0.
    """
    count = _sums(torch.ones_like(rewards), groups)
    others = (_sums(rewards, groups) - rewards) / (count - 1).clamp_min(1)
    return torch.where(count > 1, rewards - others, torch.zeros_like(rewards))


def dr_grpo(rewards: Tensor, groups: Tensor, means: Means) -> Tensor:
    """Subtract the mean of the prompt's samples, the sample's own reward included (arXiv 2503.20783)."""
    return rewards - _sums(rewards, groups) / _sums(torch.ones_like(rewards), groups)


def grpo(rewards: Tensor, groups: Tensor, means: Means) -> Tensor:
    """Divide ``dr_grpo`` by the standard deviation of the prompt's samples (arXiv 2402.03300, section 4.1.2).

    If all samples of a prompt have one reward, there is nothing to learn: their advantage is 0.
    """
    centred = dr_grpo(rewards, groups, means)
    freedom = _sums(torch.ones_like(rewards), groups) - 1
    deviation = (_sums(centred.square(), groups) / freedom.clamp_min(1)).sqrt()
    # Equal rewards may differ by rounding: that is no spread.
    equal = deviation <= 1e-6 * rewards.abs().clamp_min(1)
    return torch.where(equal, torch.zeros_like(rewards), centred / deviation)


ESTIMATORS: Mapping[str, Estimator] = {
    "reinforce": reinforce,
    "ema": ema,
    "batch": batch,
    "rloo": rloo,
    "dr_grpo": dr_grpo,
    "grpo": grpo,
}
"""By their names in specs."""


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    """Sum over each sample's group: [N]."""
    return torch.zeros(int(groups.max()) + 1, dtype=values.dtype).index_add(0, groups, values)[groups]
