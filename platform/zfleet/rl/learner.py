"""The learning loop: draw prompts, roll out, grade, compare, and move each expert's z by one Adam step.

Experts in training are members of one cohort: their answers share the engine's batches, and their samples the passes
forward and backward, over one copy of the base. Only z has a gradient, and each member's is its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.engine.blocking import SyncEngine
from zfleet.errors import InvalidZ, TrainingDiverged
from zfleet.evaluate import answers_graded, nothing_graded
from zfleet.rl.advantages import ESTIMATORS, Means
from zfleet.rl.answers import Answered, Answers
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.gradient import ExpertBatch, summed_gradients, token_logprobs
from zfleet.rl.member import Member
from zfleet.rl.report import SampleSums, StepReport, step_report
from zfleet.rl.rollout import Rollout
from zfleet.rl.signal import teaching
from zfleet.rl.weights import Weights
from zfleet.tasks.task import Sample


@dataclass(frozen=True)
class Measured:
    """Held-out prompts graded, over all workers.

    Attributes:
        reward: Their mean reward.
        accuracy: The fraction answered right.
        n: How many were graded.
        rewards: Of this worker's prompts, in their order; None of one that was not graded.
    """

    reward: float
    accuracy: float
    n: int
    rewards: tuple[float | None, ...]


_SMALLER = "lower learner.lr, or raise learner.kl"


@dataclass(frozen=True, eq=False)
class StepSamples:
    """The samples of one step, before anything is learned from them.

    Attributes:
        batches: Of each member that takes the step.
        answers: What each batch was made from.
        wait_seconds: How long the learner waited for answers.
        answered_at: When they were there (``time.perf_counter``).
    """

    batches: Sequence[ExpertBatch]
    answers: Sequence[Answered]
    wait_seconds: float
    answered_at: float


@dataclass(frozen=True, eq=False)
class MeanGradients:
    """What a step's samples say of each member, over all workers.

    Attributes:
        each: The gradient of each member's mean loss, unclipped: [P].
        sums: Of each member's samples.
    """

    each: Sequence[Tensor]
    sums: Sequence[SampleSums]


class Learner:
    """Trains one or more members over one base."""

    def __init__(
        self,
        weights: Weights,
        engine: SyncEngine,
        members: Sequence[Member],
        workers: DataParallel | None = None,
    ) -> None:
        """Hold what a step needs.

        Args:
            weights: What is learned over the base; all members are made with it.
            engine: Rolls out; it may run on the same model.
            members: The cohort.
            workers: This worker's place among several.
        """
        if weights.limit is not None and len(members) > weights.limit:
            raise ValueError(f"{type(weights).__name__} learns {weights.limit} at once, not {len(members)}")
        self.weights = weights
        self.engine = engine
        self.members = members
        self.workers = workers or DataParallel()
        self._answers = Answers(engine, weights, self.workers)

    def step(self) -> list[StepReport]:
        """Take one step of every member that is not done: ``sample``, then ``learn``."""
        return self.learn(self.sample())

    def sample(self) -> StepSamples:
        """Sample, grade and compare what the next step of every member that is not done learns from.

        Raises:
            RewardError: A reward function raised.
        """
        members = [member for member in self.members if not member.done]
        for member in members:
            if member.spec.validate_every and not member.steps_done and member.selection.score is None:
                self._validate(member)
        began = time.perf_counter()
        answers = self._answers.take(members)
        answered_at = time.perf_counter()
        batches = self.compare(members, [one.rollouts for one in answers])
        return StepSamples(batches, answers, answered_at - began, answered_at)

    def learn(self, samples: StepSamples) -> list[StepReport]:
        """Take the step: the same on any number of workers, up to rounding.

        Raises:
            TrainingDiverged: A gradient or a z is not finite, or a divergence above its limit: the step must not be
                checkpointed. If it is the gradient or the divergence, no member is changed.
        """
        gradients = self.mean_gradients(samples.batches)
        norms = self._apply(samples.batches, gradients)
        learn_seconds = time.perf_counter() - samples.answered_at
        members = [batch.member for batch in samples.batches]
        validations = [self._validate(member) if _due(member) else None for member in members]
        return [
            step_report(member, answers, sums, norm, validation, samples.wait_seconds, learn_seconds)
            for member, answers, sums, norm, validation in zip(
                members, samples.answers, gradients.sums, norms, validations, strict=True
            )
        ]

    def compare(self, members: Sequence[Member], rollouts: Sequence[Sequence[Rollout]]) -> list[ExpertBatch]:
        """Compute the advantages of a step's samples.

        Args:
            members: Which.
            rollouts: This worker's samples of each.
        """
        used = [teaching(member.spec, some) for member, some in zip(members, rollouts, strict=True)]
        penalties = [self._penalties(member, some) for member, some in zip(members, used, strict=True)]
        rewards = [
            torch.tensor([rollout.reward for rollout in some]) - penalty
            for some, penalty in zip(used, penalties, strict=True)
        ]
        means = self._means(members, rewards)
        return [
            ExpertBatch(
                member,
                member.steps_done + 1,
                all_,
                some,
                _advantages(member, some, own, mean),
                penalty,
                mean,
                self._sampled_logprobs(member, some),
            )
            for member, all_, some, own, penalty, mean in zip(
                members, rollouts, used, rewards, penalties, means, strict=True
            )
        ]

    def mean_gradients(self, batches: Sequence[ExpertBatch]) -> MeanGradients:
        """Compute the gradients of a step, over the samples of all workers."""
        each, kl = summed_gradients(self.weights, batches)
        sums = []
        for batch, far, gradient in zip(batches, kl.tolist(), each, strict=True):
            spec = batch.member.spec
            divergence = far if spec.kl_in == "loss" else float(batch.penalties.sum()) / spec.kl
            sums.append(SampleSums.of(batch.member.parts, batch.rollouts, batch.used, divergence, gradient.device))
        for tensor in (*(one.values for one in sums), *each):
            self.workers.sum(tensor)
        return MeanGradients([one.mean(gradient) for one, gradient in zip(sums, each, strict=True)], sums)

    def measure(
        self, member: Member, samples: Sequence[Sample], p: Tensor | None, temperature: float = 0.0
    ) -> Measured:
        """Grade prompts; each worker grades its share.

        Args:
            p: Of the expert, or None for the base.

        Raises:
            RewardError: The reward function failed, or graded none.
        """
        first, share = self.workers.share(samples)
        sums = torch.zeros(3, dtype=torch.float64, device=self.weights.model.device)
        rewards: tuple[float | None, ...] = ()
        if share:
            with self._answers.published(None if p is None else self.weights.z(member.spec, p)) as (digest,):
                found = answers_graded(
                    self.engine,
                    self.weights.model.base.tokenizer,
                    member.task,
                    share,
                    [digest] * len(share),
                    temperature,
                    member.skip_failed_rewards,
                    first,
                )
            rewards = found.graded
            sums += sums.new_tensor([sum(found.rewards), found.right, found.n])
        reward, right, n = self.workers.sum(sums).tolist()
        if not n:
            raise nothing_graded(member.task, len(samples))
        return Measured(reward / n, right / n, int(n), rewards)

    def close(self) -> None:
        """Wait for answers under way, which nobody will learn from."""
        self._answers.close()

    def _validate(self, member: Member) -> float:
        score = self.measure(member, member.validation, member.p.detach()).reward
        member.selection = member.selection.seen(score, member.steps_done, member.p)
        return score

    def _penalties(self, member: Member, rollouts: Sequence[Rollout]) -> Tensor:
        """What distance from the base takes from each reward, by what was sampled (arXiv 2203.02155): [N]."""
        if member.spec.kl_in != "reward":
            return torch.zeros(len(rollouts))
        policy = token_logprobs(self.weights, member, rollouts, member.p_at(member.answered_by))
        base = token_logprobs(self.weights, member, rollouts, None)
        ratios = [float((ours - theirs).sum()) for ours, theirs in zip(policy, base, strict=True)]
        return member.spec.kl * torch.tensor(ratios)

    def _sampled_logprobs(self, member: Member, rollouts: Sequence[Rollout]) -> list[Tensor] | None:
        if member.answered_by == member.steps_done:
            return None
        return token_logprobs(self.weights, member, rollouts, member.p_at(member.answered_by))

    def _means(self, members: Sequence[Member], rewards: Sequence[Tensor]) -> list[Means]:
        total = torch.tensor([[float(some.sum()), len(some)] for some in rewards], dtype=torch.float64)
        sums = self.workers.sum(total.to(self.weights.model.device)).tolist()
        return [
            Means(reward / max(count, 1.0), member.mean_reward or 0.0)
            for member, (reward, count) in zip(members, sums, strict=True)
        ]

    def _apply(self, batches: Sequence[ExpertBatch], gradients: MeanGradients) -> list[float]:
        # All are looked at before one is changed: a step is taken by every member or by none. Clipping follows the
        # all-reduce: every worker clips the same gradient and stays equal to the others.
        for batch, gradient, sums in zip(batches, gradients.each, gradients.sums, strict=True):
            self._check(batch.member, gradient, sums.divergence)
        norms = []
        for batch, gradient, sums in zip(batches, gradients.each, gradients.sums, strict=True):
            norms.append(batch.member.apply(gradient if sums.used else None))
            if sums.used:
                batch.member.remember(batch.means.step)
        for batch in batches:
            self._check_z(batch.member)
        return norms

    def _check(self, member: Member, gradient: Tensor, kl: float) -> None:
        norm = float(gradient.norm())
        if not math.isfinite(norm):
            raise _diverged(member, member.steps_done + 1, f"the gradient's norm is {norm}", _SMALLER)
        limit = member.spec.kl_limit
        if limit is not None and not abs(kl) <= limit:
            far = f"the mean divergence from the base is {kl:.4g}, learner.kl_limit is {limit:g}"
            raise _diverged(member, member.steps_done + 1, far, f"{_SMALLER}, or raise the limit")

    def _check_z(self, member: Member) -> None:
        """Refuse a step that leads to no z, before anybody checkpoints it."""
        try:
            self.weights.z(member.spec, member.p)
        except InvalidZ as error:
            raise _diverged(member, member.steps_done, error.message, _SMALLER) from error


def _diverged(member: Member, step: int, what: str, remedy: str) -> TrainingDiverged:
    return TrainingDiverged(f"expert {member.name!r}, step {step}: {what}", remedy, member.name)


def _due(member: Member) -> bool:
    every = member.spec.validate_every
    return every > 0 and (member.steps_done % every == 0 or member.steps_done == member.spec.steps)


def _advantages(member: Member, rollouts: Sequence[Rollout], rewards: Tensor, means: Means) -> Tensor:
    if member.spec.objective == "supervised" or not rollouts:
        return torch.ones(len(rollouts))
    groups = torch.tensor([rollout.group for rollout in rollouts])
    return ESTIMATORS[member.spec.estimator](rewards, groups, means)
