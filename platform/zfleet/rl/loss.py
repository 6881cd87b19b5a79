"""Losses: sums over tokens, divided later by the number of samples of all workers, so that passes can split a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Compute REINFORCE's loss: minus the sum over samples of advantage times the completion's log-probability.

    Args:
        logprobs: [N], of all completions' tokens.
        advantages: [N], of each token's sample.

    Returns:
        A scalar; Williams 1992, as in arXiv 2501.06252, equation 1.
    """
    return -(advantages * logprobs).sum()


def clipped_loss(logprobs: Tensor, sampled: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Compute PPO's loss: minus the sum over samples and tokens of min(ratio x advantage, clipped ratio x advantage).

    Where policy and sampler are one, its gradient is ``policy_loss``'s.

    Args:
        logprobs: [N], of all completions' tokens, under the policy.
        sampled: [N], under the z that the tokens were sampled from.
        advantages: [N], of each token's sample.
        clip: How far a ratio may be from 1.

    Returns:
        A scalar; arXiv 1707.06347, equation 7, with one advantage for all tokens of a sample.
    """
    ratio = (logprobs - sampled).exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, bounded * advantages).sum()
