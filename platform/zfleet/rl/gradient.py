"""The gradient of one step: all members' samples through the model together, in as many passes as memory asks for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.models.sharded import most_passes
from zfleet.models.teacher_forcing import CompletionLogits, completion_logits
from zfleet.rl.loss import clipped_loss, divergence, policy_loss
from zfleet.rl.member import Member
from zfleet.rl.passes import passes
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import Weights
from zfleet.tasks.task import Grade, Sample

_NOTHING = Rollout(Sample("", ""), 0, (0,), (0,), "", Grade(0.0))
"""What runs in a pass of no sample; nobody learns from it."""


@dataclass(frozen=True, eq=False)
class Share:
    """One member's samples on this worker, ready to learn from.

    Attributes:
        member: Whose they are.
        rollouts: N samples.
        advantages: [N] float32.
        sampled: Of each sample the log-probabilities [C] of its tokens under the z that they were sampled from; None
            where that is the z that learns.
    """

    member: Member
    rollouts: Sequence[Rollout]
    advantages: Tensor
    sampled: Sequence[Tensor] | None = None


def gradients(weights: Weights, shares: Sequence[Share]) -> tuple[list[Tensor], Tensor]:
    """The gradient of each member's loss, summed over its samples.

    Returns:
        One [P] for each share, and the divergences from the base, summed over samples: [E] float64; 0 where a spec's
        loss has none and no limit asks for it.
    """
    members = [share.member for share in shares]
    ps = [member.p for member in members]
    rows = [(place, sample) for place, share in enumerate(shares) for sample in range(len(share.rollouts))]
    total = [torch.zeros_like(p) for p in ps]
    kl = torch.zeros(len(shares), dtype=torch.float64)
    lengths = _lengths(weights, [shares[place].rollouts[sample] for place, sample in rows])
    for chosen in _packed(weights, lengths, min(member.spec.pass_tokens for member in members)):
        loss = _loss(weights, shares, [rows[index] for index in chosen], kl)
        for sum_, part in zip(total, weights.gradients(loss, ps), strict=True):
            sum_ += part
    return total, kl


@torch.no_grad()
def token_logprobs(weights: Weights, member: Member, rollouts: Sequence[Rollout], p: Tensor | None) -> list[Tensor]:
    """Log-probabilities of each sample's tokens at the spec's temperature, under a p, or under the base: [C] each."""
    found: dict[int, Tensor] = {}
    with weights.reference() if p is None else nullcontext(weights.rows([member.spec], [p])) as z:
        for chosen in _packed(weights, _lengths(weights, rollouts), member.spec.pass_tokens):
            logits = _logits(weights, [rollouts[index] for index in chosen] or [_NOTHING], z)
            if chosen:
                logprobs = logits.logprobs(member.spec.temperature)
                found |= {index: row[kept] for index, row, kept in zip(chosen, logprobs, logits.mask, strict=True)}
    return [found[index] for index in range(len(rollouts))]


def _loss(weights: Weights, shares: Sequence[Share], rows: Sequence[tuple[int, int]], kl: Tensor) -> Tensor:
    """The loss of one pass, all members' summed; adds each one's divergence to ``kl`` [E]."""
    members = [share.member for share in shares]
    owners = torch.tensor([place for place, _ in rows], dtype=torch.long, device=weights.model.device)
    z = weights.rows([member.spec for member in members], [member.p for member in members])
    rollouts = [shares[place].rollouts[sample] for place, sample in rows]
    if not rows:
        rollouts, owners = [_NOTHING], owners.new_zeros(1)
    policy = _logits(weights, rollouts, None if z is None else _spread(z, owners))
    reference = None
    if any(_measured(member.spec) for member in members):
        with torch.no_grad(), weights.reference() as base:
            if base is not None:
                # It must take the form that the policy's rows take, to round as they do: one that learns alone may be
                # composed.
                base.requires_grad_(len(shares) == 1)
            reference = _logits(weights, rollouts, base)
    # A pass of no sample still has a way back through the model.
    loss = policy.logits.new_zeros(()) if rows else 0 * policy.logits.sum()
    for place, share in enumerate(shares):
        mine = (owners == place).nonzero().squeeze(-1)
        if not rows or not len(mine):
            continue
        samples = [sample for owner, sample in rows if owner == place]
        ours = policy.at(mine)
        loss = loss + _policy_loss(share, samples, ours)
        if reference is not None and _measured(share.member.spec):
            far = _divergence(share.member.spec, ours, reference.at(mine))
            loss = loss + share.member.spec.kl * far
            kl[place] += far.detach().cpu().double()
    return loss


def _measured(spec: LearnerSpec) -> bool:
    """Whether the divergence from the base is to be known: it is part of the loss, or has a limit."""
    return spec.kl_in == "loss" and (spec.kl > 0 or spec.kl_limit is not None)


def _divergence(spec: LearnerSpec, policy: CompletionLogits, base: CompletionLogits) -> Tensor:
    """Summed over samples; with a gradient where the loss has it."""
    with torch.set_grad_enabled(spec.kl > 0):
        return (divergence(policy, base) if spec.kl_over == "policy" else divergence(base, policy)).sum()


def _spread(z: Tensor, owners: Tensor) -> Tensor:
    """Row i of the batch under z[owners[i]]: [B, R]; [1, R] where there is one z."""
    return z if len(z) == 1 else z.index_select(0, owners)


def _policy_loss(share: Share, samples: Sequence[int], policy: CompletionLogits) -> Tensor:
    spec = share.member.spec
    # The policy is what was sampled from.
    logprobs = policy.logprobs(spec.temperature)
    advantages = share.advantages[list(samples)].to(logprobs.device)
    if share.sampled is None:
        return policy_loss(logprobs, advantages)
    sampled = torch.zeros_like(logprobs)
    sampled[policy.mask] = torch.cat([share.sampled[sample] for sample in samples])
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
