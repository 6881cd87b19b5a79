"""Batches: the rollouts of a step, compared with each other and ready to learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.rl.advantages import ESTIMATORS, Means
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.micro_batches import token_logprobs
from zfleet.rl.rollout import Rollout, used_rollouts
from zfleet.rl.weights import Weights


@dataclass(frozen=True, eq=False)
class ExpertBatch:
    """One expert's samples of one step on this worker, compared with each other and ready to learn from.

    Attributes:
        expert: Whose they are.
        step: Number of the step, from 1.
        rollouts: All N samples.
        used: The M samples that are learned from.
        advantages: Of those: [M] float32.
        penalties: What the divergence from the base took from the reward of each: [M]; 0 if the spec takes nothing.
        means: What the rewards were compared with.
        sampled_logprobs: Of each used sample the log-probabilities [C] of its tokens under the z that they were sampled
            from; None if that is the z that learns.
    """

    expert: ExpertInTraining
    step: int
    rollouts: Sequence[Rollout]
    used: Sequence[Rollout]
    advantages: Tensor
    penalties: Tensor
    means: Means
    sampled_logprobs: Sequence[Tensor] | None

    @property
    def advantages_of_all(self) -> Tensor:
        """Advantages of all samples, NaN for one that is not learned from: [N]."""
        known = {id(rollout): float(value) for rollout, value in zip(self.used, self.advantages, strict=True)}
        return torch.tensor([known.get(id(rollout), math.nan) for rollout in self.rollouts])


def compare(
    weights: Weights,
    workers: DataParallel,
    experts: Sequence[ExpertInTraining],
    rollouts: Sequence[Sequence[Rollout]],
) -> list[ExpertBatch]:
    """Compute the advantages of a step's samples.

    Args:
        weights: What is learned.
        workers: This worker's place among several; rewards are compared over all.
        experts: Which take the step.
        rollouts: This worker's samples of each.
    """
    used = [used_rollouts(expert.spec, all_) for expert, all_ in zip(experts, rollouts, strict=True)]
    penalties = [_penalties(weights, expert, some) for expert, some in zip(experts, used, strict=True)]
    rewards = [
        torch.tensor([rollout.reward for rollout in some]) - penalty
        for some, penalty in zip(used, penalties, strict=True)
    ]
    means = _means(workers, experts, rewards, weights.model.device)
    return [
        ExpertBatch(
            expert=expert,
            step=expert.steps_done + 1,
            rollouts=all_,
            used=some,
            advantages=_advantages(expert, some, reward, mean),
            penalties=penalty,
            means=mean,
            sampled_logprobs=_sampled_logprobs(weights, expert, some),
        )
        for expert, all_, some, reward, penalty, mean in zip(
            experts, rollouts, used, rewards, penalties, means, strict=True
        )
    ]


def _penalties(weights: Weights, expert: ExpertInTraining, rollouts: Sequence[Rollout]) -> Tensor:
    """Compute what divergence from the base takes from each reward, estimated on the sample (arXiv 2203.02155)."""
    if expert.spec.kl_in != "reward":
        return torch.zeros(len(rollouts))
    policy = token_logprobs(weights, expert, rollouts, expert.p_at(expert.sampling_step))
    base = token_logprobs(weights, expert, rollouts, None)
    log_ratios = [float((ours - theirs).sum()) for ours, theirs in zip(policy, base, strict=True)]
    return expert.spec.kl * torch.tensor(log_ratios)


def _means(
    workers: DataParallel, experts: Sequence[ExpertInTraining], rewards: Sequence[Tensor], device: torch.device
) -> list[Means]:
    total = torch.tensor([[float(some.sum()), len(some)] for some in rewards], dtype=torch.float64)
    sums = workers.sum(total.to(device)).tolist()
    return [
        Means(reward / max(count, 1.0), expert.mean_reward or 0.0)
        for expert, (reward, count) in zip(experts, sums, strict=True)
    ]


def _advantages(expert: ExpertInTraining, used: Sequence[Rollout], rewards: Tensor, means: Means) -> Tensor:
    if expert.spec.objective == "supervised" or not used:
        return torch.ones(len(used))
    groups = torch.tensor([rollout.group for rollout in used])
    return ESTIMATORS[expert.spec.estimator](rewards, groups, means)


def _sampled_logprobs(weights: Weights, expert: ExpertInTraining, used: Sequence[Rollout]) -> list[Tensor] | None:
    if expert.sampling_step == expert.steps_done:
        return None
    return token_logprobs(weights, expert, used, expert.p_at(expert.sampling_step))
