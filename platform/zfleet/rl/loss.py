"""Losses: sums over samples, divided later by their global number, so that workers and passes can split a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from zfleet.models.teacher_forcing import CompletionLogits


def policy_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Compute REINFORCE's loss: minus the sum over samples of advantage times the completion's log-probability.

    Args:
        logprobs: [B, K], 0 outside the completion.
        advantages: [B].

    Returns:
        A scalar; Williams 1992, as in arXiv 2501.06252, equation 1.
    """
    return -(advantages * logprobs.sum(-1)).sum()


def clipped_loss(logprobs: Tensor, sampled: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Compute PPO's loss: minus the sum over samples and tokens of min(ratio x advantage, clipped ratio x advantage).

    Where policy and sampler are one, its gradient is ``policy_loss``'s.

    Args:
        logprobs: [B, K] under the policy, 0 outside the completion.
        sampled: [B, K] under the z that the tokens were sampled from, 0 outside the completion.
        advantages: [B].
        clip: How far a ratio may be from 1.

    Returns:
        A scalar; arXiv 1707.06347, equation 7, with one advantage for all tokens of a sample.
    """
    ratio = (logprobs - sampled).exp()
    advantages = advantages.unsqueeze(-1)
    bounded = ratio.clamp(1 - clip, 1 + clip)
    # Outside the completion both are 0 and the ratio is 1: a constant, without a gradient.
    return -torch.minimum(ratio * advantages, bounded * advantages).sum()


def divergence(first: CompletionLogits, second: CompletionLogits) -> Tensor:
    """Sum KL(first || second) over completion tokens, exact over the vocabulary, for each sample: [B]."""
    log_p = torch.log_softmax(first.logits, -1)
    log_q = torch.log_softmax(second.logits, -1)
    per_token = (log_p.exp() * (log_p - log_q)).sum(-1)
    return first.token_sums(per_token)
