"""A gradient by way of all logits, as autograd computes it: what chunks are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zfleet.models.svf_model import SvfModel
from zfleet.rl.rollout import Rollout


def full_values(logits: Tensor, base: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens, and KL(policy || base): [...] each.

    Args:
        logits, base: [..., vocabulary] of policy and base.
        targets: [...] ids.
    """
    log_p, log_q = torch.log_softmax(logits, -1), torch.log_softmax(base, -1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1), divergence


def full_gradient(model: SvfModel, p: Tensor, rollouts: Sequence[Rollout], kl: float) -> Tensor:
    """Gradient [R] of the learner's mean loss in z = p, each reward its advantage; all samples in one pass.

    Samples have one length. Logits are computed at the places of the completions only.
    """
    ids = torch.tensor([[*rollout.prompt, *rollout.completion] for rollout in rollouts])
    prompt = len(rollouts[0].prompt)
    kept = torch.arange(prompt - 1, ids.shape[1] - 1)
    options: dict[str, Any] = {
        "position_ids": torch.arange(ids.shape[1]).unsqueeze(0),
        "use_cache": False,
        "logits_to_keep": kept,
    }
    logits = model.logits(ids, p.unsqueeze(0), **options)
    with torch.no_grad():
        base = model.logits(ids, None, **options)
    logprobs, divergence = full_values(logits, base, ids[:, prompt:])
    rewards = torch.tensor([rollout.reward for rollout in rollouts])
    loss = (kl * divergence - rewards.unsqueeze(1) * logprobs).sum() / len(rollouts)
    return torch.autograd.grad(loss, p)[0]
