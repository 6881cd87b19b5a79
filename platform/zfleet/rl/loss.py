"""The loss: sums over samples, divided later by their global number, so that workers can split a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from zfleet.models.teacher_forcing import CompletionLogits


def policy_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE: minus the sum over samples of advantage times the log-probability of the completion.

    Args:
        logprobs: [B, K], 0 outside the completion.
        advantages: [B].

    Returns:
        A scalar; Williams 1992, as in arXiv 2501.06252, equation 1.
    """
    return -(advantages * logprobs.sum(-1)).sum()


def divergence(policy: CompletionLogits, reference: CompletionLogits) -> Tensor:
    """Sum over completion tokens of KL(policy || reference), exact over the vocabulary: a scalar."""
    log_p = torch.log_softmax(policy.logits, -1)
    log_q = torch.log_softmax(reference.logits, -1)
    per_token = (log_p.exp() * (log_p - log_q)).sum(-1)
    return (per_token * policy.mask).sum()
