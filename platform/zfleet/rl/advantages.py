"""How good a sample was, compared with what: pure functions from rewards [N] to advantages [N]."""

from __future__ import annotations

import torch
from torch import Tensor


def reinforce(rewards: Tensor, groups: Tensor) -> Tensor:
    """The reward itself, +1 or -1, with no baseline: what the paper does (arXiv 2501.06252, section 3.2).

    Args:
        rewards: [N].
        groups: [N] int, which prompt each sample answers; not used.
    """
    return rewards.clone()


def rloo(rewards: Tensor, groups: Tensor) -> Tensor:
    """Leave one out: the reward less the mean of the other samples of its prompt (arXiv 2402.14740).

    A sample that is alone in its group has nothing to compare with: its advantage is 0.

    Args:
        rewards: [N].
        groups: [N] int, which prompt each sample answers.
    """
    size = int(groups.max()) + 1
    total = torch.zeros(size, dtype=rewards.dtype).index_add(0, groups, rewards)[groups]
    count = torch.zeros(size, dtype=rewards.dtype).index_add(0, groups, torch.ones_like(rewards))[groups]
    others = (total - rewards) / (count - 1).clamp_min(1)
    return torch.where(count > 1, rewards - others, torch.zeros_like(rewards))


ESTIMATORS = {"reinforce": reinforce, "rloo": rloo}
