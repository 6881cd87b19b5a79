"""Gradients of one step: all experts' samples go through the model together, in as many micro-batches as fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.models.teacher_forcing import CompletionLogits
from zfleet.rl.batch import ExpertBatch
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.loss import clipped_loss, divergence, policy_loss
from zfleet.rl.micro_batches import PLACEHOLDER, pack, rollout_logits
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import Weights


def summed_gradients(weights: Weights, batches: Sequence[ExpertBatch]) -> tuple[list[Tensor], Tensor]:
    """Compute the gradient of each expert's loss, summed over its samples.

    Returns:
        One [P] for each batch, and the divergences from the base, summed over samples: [E] float64; 0 if the spec's
        loss has none and no limit asks for it.
    """
    experts = [batch.expert for batch in batches]
    ps = [expert.p for expert in experts]
    samples = [(place, sample) for place, batch in enumerate(batches) for sample in range(len(batch.used))]
    total = [torch.zeros_like(p) for p in ps]
    kl = torch.zeros(len(batches), dtype=torch.float64)
    rollouts = [batches[place].used[sample] for place, sample in samples]
    for micro_batch in pack(weights, rollouts, min(expert.spec.pass_tokens for expert in experts)):
        loss = _loss(weights, batches, [samples[index] for index in micro_batch], kl)
        for sum_, part in zip(total, weights.backward(loss, ps), strict=True):
            sum_ += part
    return total, kl


def _loss(weights: Weights, batches: Sequence[ExpertBatch], samples: Sequence[tuple[int, int]], kl: Tensor) -> Tensor:
    """Compute the loss of one micro-batch, summed over experts, and add each expert's divergence to ``kl`` [E].

    Args:
        samples: For each row of the micro-batch the place of its batch, and its place among that batch's ``used``.
    """
    experts = [batch.expert for batch in batches]
    owners = torch.tensor([place for place, _ in samples], dtype=torch.long, device=weights.model.device)
    z = weights.z_rows([expert.spec for expert in experts], [expert.p for expert in experts])
    rollouts = [batches[place].used[sample] for place, sample in samples]
    if not samples:
        rollouts, owners = [PLACEHOLDER], owners.new_zeros(1)
    policy = rollout_logits(weights, rollouts, None if z is None else _spread(z, owners))
    base = _base_logits(weights, rollouts, alone=len(batches) == 1) if any(map(_measures_kl, experts)) else None
    # A micro-batch of no sample still needs a backward pass: other processes wait for it.
    loss = policy.logits.new_zeros(()) if samples else 0 * policy.logits.sum()
    for place, batch in enumerate(batches):
        mine = (owners == place).nonzero().squeeze(-1)
        if not samples or not len(mine):
            continue
        ours = policy.at(mine)
        loss = loss + _policy_loss(batch, [sample for owner, sample in samples if owner == place], ours)
        if base is not None and _measures_kl(batch.expert):
            far = _divergence(batch.expert.spec, ours, base.at(mine))
            loss = loss + batch.expert.spec.kl * far
            kl[place] += far.detach().cpu().double()
    return loss


@torch.no_grad()
def _base_logits(weights: Weights, rollouts: Sequence[Rollout], alone: bool) -> CompletionLogits:
    """Compute the logits of the base, the reference policy.

    Args:
        alone: Whether the micro-batch is of one expert.
    """
    with weights.reference_policy() as z:
        if z is not None:
            # Compute the base in the policy's form, so that the divergence is not rounding noise: the rows of an expert
            # that learns alone may be composed.
            z.requires_grad_(alone)
        return rollout_logits(weights, rollouts, z)


def _measures_kl(expert: ExpertInTraining) -> bool:
    """Whether the divergence from the base is part of the loss, or has a limit."""
    spec = expert.spec
    return spec.kl_in == "loss" and (spec.kl > 0 or spec.kl_limit is not None)


def _divergence(spec: LearnerSpec, policy: CompletionLogits, base: CompletionLogits) -> Tensor:
    """Sum the divergence over samples; with a gradient if it is part of the loss."""
    with torch.set_grad_enabled(spec.kl > 0):
        return (divergence(policy, base) if spec.kl_over == "policy" else divergence(base, policy)).sum()


def _spread(z: Tensor, owners: Tensor) -> Tensor:
    """Put row i of the micro-batch under z[owners[i]]: [B, R]; [1, R] if there is one z."""
    return z if len(z) == 1 else z.index_select(0, owners)


def _policy_loss(batch: ExpertBatch, samples: Sequence[int], policy: CompletionLogits) -> Tensor:
    spec = batch.expert.spec
    # The policy is what was sampled from: softmax(logits / temperature).
    logprobs = policy.logprobs(spec.temperature)
    advantages = batch.advantages[list(samples)].to(logprobs.device)
    if batch.sampled_logprobs is None:
        return policy_loss(logprobs, advantages)
    sampled = policy.padded([batch.sampled_logprobs[sample] for sample in samples])
    return clipped_loss(logprobs, sampled, advantages, spec.ratio_clip)
