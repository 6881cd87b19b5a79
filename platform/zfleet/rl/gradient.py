"""The gradient of one step: all members' samples go through the model together, in as many micro-batches as fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.models.sharded import most_passes
from zfleet.models.teacher_forcing import CompletionLogits, completion_logits
from zfleet.rl.advantages import Means
from zfleet.rl.loss import clipped_loss, divergence, policy_loss
from zfleet.rl.member import Member
from zfleet.rl.passes import passes
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import Weights
from zfleet.tasks.task import Grade, Sample

_NOTHING = Rollout(Sample("", ""), 0, (0,), (0,), "", Grade(0.0))
"""What runs in a pass of no sample; nobody learns from it."""


@dataclass(frozen=True, eq=False)
class ExpertBatch:
    """One member's samples of one step on this worker, compared with each other and ready to learn from.

    Attributes:
        member: Whose they are.
        step: Number of the step, from 1.
        rollouts: All N samples.
        used: The M samples that are learned from.
        advantages: Of those: [M] float32.
        penalties: What the divergence from the base took from the reward of each: [M]; 0 if the spec takes nothing.
        means: What the rewards were compared with.
        sampled_logprobs: Of each used sample the log-probabilities [C] of its tokens under the z that they were sampled
            from; None if that is the z that learns.
    """

    member: Member
    step: int
    rollouts: Sequence[Rollout]
    used: Sequence[Rollout]
    advantages: Tensor
    penalties: Tensor
    means: Means
    sampled_logprobs: Sequence[Tensor] | None = None

    @property
    def advantages_of_all(self) -> Tensor:
        """Advantages of all samples, NaN for one that is not learned from: [N]."""
        known = {id(rollout): float(value) for rollout, value in zip(self.used, self.advantages, strict=True)}
        return torch.tensor([known.get(id(rollout), math.nan) for rollout in self.rollouts])


def summed_gradients(weights: Weights, batches: Sequence[ExpertBatch]) -> tuple[list[Tensor], Tensor]:
    """Compute the gradient of each member's loss, summed over its samples.

    Returns:
        One [P] for each batch, and the divergences from the base, summed over samples: [E] float64; 0 if the spec's
        loss has none and no limit asks for it.
    """
    members = [batch.member for batch in batches]
    ps = [member.p for member in members]
    samples = [(place, sample) for place, batch in enumerate(batches) for sample in range(len(batch.used))]
    total = [torch.zeros_like(p) for p in ps]
    kl = torch.zeros(len(batches), dtype=torch.float64)
    lengths = _lengths(weights, [batches[place].used[sample] for place, sample in samples])
    for micro_batch in _packed(weights, lengths, min(member.spec.pass_tokens for member in members)):
        loss = _loss(weights, batches, [samples[index] for index in micro_batch], kl)
        for sum_, part in zip(total, weights.backward(loss, ps), strict=True):
            sum_ += part
    return total, kl


@torch.no_grad()
def token_logprobs(weights: Weights, member: Member, rollouts: Sequence[Rollout], p: Tensor | None) -> list[Tensor]:
    """Log-probabilities of each sample's tokens at the spec's temperature, under a p, or under the base: [C] each."""
    found: dict[int, Tensor] = {}
    with weights.reference() if p is None else nullcontext(weights.rows([member.spec], [p])) as z:
        for micro_batch in _packed(weights, _lengths(weights, rollouts), member.spec.pass_tokens):
            logits = _logits(weights, [rollouts[index] for index in micro_batch] or [_NOTHING], z)
            if micro_batch:
                each = logits.unpadded(logits.logprobs(member.spec.temperature))
                found |= dict(zip(micro_batch, each, strict=True))
    return [found[index] for index in range(len(rollouts))]


def _loss(weights: Weights, batches: Sequence[ExpertBatch], samples: Sequence[tuple[int, int]], kl: Tensor) -> Tensor:
    """The loss of one micro-batch, summed over members; adds each one's divergence to ``kl`` [E].

    Args:
        samples: For each row of the micro-batch the place of its batch, and its place among that batch's ``used``.
    """
    members = [batch.member for batch in batches]
    owners = torch.tensor([place for place, _ in samples], dtype=torch.long, device=weights.model.device)
    z = weights.rows([member.spec for member in members], [member.p for member in members])
    rollouts = [batches[place].used[sample] for place, sample in samples]
    if not samples:
        rollouts, owners = [_NOTHING], owners.new_zeros(1)
    policy = _logits(weights, rollouts, None if z is None else _spread(z, owners))
    base = _base_logits(weights, rollouts, alone=len(batches) == 1) if any(map(_measures_kl, members)) else None
    # A micro-batch of no sample still has a way back through the model.
    loss = policy.logits.new_zeros(()) if samples else 0 * policy.logits.sum()
    for place, batch in enumerate(batches):
        mine = (owners == place).nonzero().squeeze(-1)
        if not samples or not len(mine):
            continue
        ours = policy.at(mine)
        loss = loss + _policy_loss(batch, [sample for owner, sample in samples if owner == place], ours)
        if base is not None and _measures_kl(batch.member):
            far = _divergence(batch.member.spec, ours, base.at(mine))
            loss = loss + batch.member.spec.kl * far
            kl[place] += far.detach().cpu().double()
    return loss


@torch.no_grad()
def _base_logits(weights: Weights, rollouts: Sequence[Rollout], alone: bool) -> CompletionLogits:
    """Logits of the base, the reference policy.

    Args:
        alone: Whether the micro-batch is of one expert.
    """
    with weights.reference() as z:
        if z is not None:
            # Compute the base in the policy's form, so that the divergence is not rounding noise: the rows of an expert
            # that learns alone may be composed.
            z.requires_grad_(alone)
        return _logits(weights, rollouts, z)


def _measures_kl(member: Member) -> bool:
    """Whether the divergence from the base is part of the loss, or has a limit."""
    spec = member.spec
    return spec.kl_in == "loss" and (spec.kl > 0 or spec.kl_limit is not None)


def _divergence(spec: LearnerSpec, policy: CompletionLogits, base: CompletionLogits) -> Tensor:
    """Summed over samples; with a gradient where the loss has it."""
    with torch.set_grad_enabled(spec.kl > 0):
        return (divergence(policy, base) if spec.kl_over == "policy" else divergence(base, policy)).sum()


def _spread(z: Tensor, owners: Tensor) -> Tensor:
    """Row i of the batch under z[owners[i]]: [B, R]; [1, R] where there is one z."""
    return z if len(z) == 1 else z.index_select(0, owners)


def _policy_loss(batch: ExpertBatch, samples: Sequence[int], policy: CompletionLogits) -> Tensor:
    spec = batch.member.spec
    # The policy is what was sampled from: softmax(logits / temperature).
    logprobs = policy.logprobs(spec.temperature)
    advantages = batch.advantages[list(samples)].to(logprobs.device)
    if batch.sampled_logprobs is None:
        return policy_loss(logprobs, advantages)
    sampled = policy.padded([batch.sampled_logprobs[sample] for sample in samples])
    return clipped_loss(logprobs, sampled, advantages, spec.ratio_clip)


def _logits(weights: Weights, rollouts: Sequence[Rollout], z: Tensor | None) -> CompletionLogits:
    prompts = [weights.model.spread(rollout.prompt, rollout.images) for rollout in rollouts]
    completions = [rollout.completion for rollout in rollouts]
    return completion_logits(weights.model, prompts, completions, z, [rollout.images for rollout in rollouts])


def _packed(weights: Weights, lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Passes; of a model that is split over processes as many as any of them has, the last ones of no sample."""
    packed = passes(lengths, limit)
    return packed + [[]] * (most_passes(weights.model, len(packed)) - len(packed))


def _lengths(weights: Weights, rollouts: Sequence[Rollout]) -> list[int]:
    return [len(weights.model.spread(rollout.prompt, rollout.images)) + len(rollout.completion) for rollout in rollouts]
