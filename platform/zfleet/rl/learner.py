"""The learning loop: draw prompts, roll out, grade, compare, and move each expert's z by one Adam step.

Experts in training are members of one cohort: their answers share the engine's batches, and their samples the passes
forward and backward, over one copy of the base. Only z has a gradient, and each member's is its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.engine.blocking import SyncEngine
from zfleet.errors import InvalidZ, TrainingDiverged
from zfleet.evaluate import answers_graded, nothing_graded
from zfleet.rl.advantages import ESTIMATORS, Means
from zfleet.rl.answers import Answers
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.gradient import Share, gradients, token_logprobs
from zfleet.rl.member import Member
from zfleet.rl.report import StepReport, sample_sums, step_report
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

Record = Callable[[Member, int, Sequence[Rollout], Tensor], str]
"""Given a member, a step's number from 1, this worker's samples N and their advantages [N], before it is taken.

The advantage of a sample that is not learned from is NaN. Gives the place where they are kept.
"""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of one step.

    Attributes:
        each: The gradient of each member's mean loss over its samples of all workers, unclipped: [P].
        sums: Of each member, over all workers, as of ``sample_sums``.
        means: Of each member, what its samples were compared with.
    """

    each: Sequence[Tensor]
    sums: Sequence[Tensor]
    means: Sequence[Means]


class Learner:
    """Trains one or more members over one base."""

    def __init__(
        self,
        weights: Weights,
        engine: SyncEngine,
        members: Sequence[Member],
        workers: DataParallel | None = None,
        record: Record = lambda member, step, rollouts, advantages: "",
    ) -> None:
        """Hold what a step needs.

        Args:
            weights: What is learned over the base; all members are made with it.
            engine: Rolls out; it may run on the same model.
            members: The cohort.
            workers: This worker's place among several.
            record: Keeps samples, also those of a step that ends the run.
        """
        if weights.limit is not None and len(members) > weights.limit:
            raise ValueError(f"{type(weights).__name__} learns {weights.limit} at once, not {len(members)}")
        self.weights = weights
        self.engine = engine
        self.members = members
        self.workers = workers or DataParallel()
        self._record = record
        self._recorded: dict[Member, str] = {}
        self._answers = Answers(engine, weights, self.workers)

    def step(self) -> list[StepReport]:
        """One step of every member that is not done: the same on any number of workers, up to rounding.

        Raises:
            RewardError: A reward function raised.
            TrainingDiverged: A gradient or a z is not finite, or a divergence above its limit: the step is not to be
                kept. Where it is the gradient or the divergence, no member is changed.
        """
        members = [member for member in self.members if not member.done]
        for member in members:
            if member.spec.validate_every and not member.steps_done and member.selection.score is None:
                self._validate(member)
        began = time.perf_counter()
        answered = self._answers.take(members)
        waited = time.perf_counter()
        found = self.gradients(members, [one.rollouts for one in answered])
        norms = self._apply(members, found)
        learned = time.perf_counter()
        validations = [self._validate(member) if _due(member) else None for member in members]
        return [
            step_report(member, one, sums.tolist(), norm, validation, waited - began, learned - waited)
            for member, one, sums, norm, validation in zip(
                members, answered, found.sums, norms, validations, strict=True
            )
        ]

    def gradients(self, members: Sequence[Member], rollouts: Sequence[Sequence[Rollout]]) -> Gradients:
        """The gradients of a step.

        Args:
            members: Which.
            rollouts: This worker's samples of each.
        """
        kept = [teaching(member.spec, some) for member, some in zip(members, rollouts, strict=True)]
        penalties = [self._penalties(member, some) for member, some in zip(members, kept, strict=True)]
        rewards = [
            torch.tensor([rollout.reward for rollout in some]) - penalty
            for some, penalty in zip(kept, penalties, strict=True)
        ]
        means = self._means(members, rewards)
        shares = []
        for member, all_, some, of_each, mean in zip(members, rollouts, kept, rewards, means, strict=True):
            advantages = _advantages(member, some, of_each, mean)
            self._recorded[member] = self._record(member, member.steps_done + 1, all_, _of_all(all_, some, advantages))
            shares.append(Share(member, some, advantages, self._sampled(member, some)))
        each, kl = gradients(self.weights, shares)
        sums = []
        for member, all_, some, far, penalty in zip(members, rollouts, kept, kl.tolist(), penalties, strict=True):
            distance = far if member.spec.kl_in == "loss" else float(penalty.sum()) / member.spec.kl
            sums.append(sample_sums(member, all_, some, distance).to(each[0].device))
        for tensor in (*sums, *each):
            self.workers.sum(tensor)
        of_mean = [part / sum_[4].clamp_min(1).float() for part, sum_ in zip(each, sums, strict=True)]
        return Gradients(of_mean, sums, means)

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

    def _sampled(self, member: Member, rollouts: Sequence[Rollout]) -> list[Tensor] | None:
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

    def _apply(self, members: Sequence[Member], found: Gradients) -> list[float]:
        # All are looked at before one is changed: a step is taken by every member or by none. Clipping follows the
        # all-reduce: every worker clips the same gradient and stays equal to the others.
        for member, gradient, sums in zip(members, found.each, found.sums, strict=True):
            self._check(member, gradient, float(sums[1] / sums[4].clamp_min(1)))
        norms = []
        for member, gradient, sums, means in zip(members, found.each, found.sums, found.means, strict=True):
            used = int(sums[4]) > 0
            norms.append(member.apply(gradient if used else None))
            if used:
                member.remember(means.step)
        for member in members:
            self._check_z(member)
        return norms

    def _check(self, member: Member, gradient: Tensor, kl: float) -> None:
        norm = float(gradient.norm())
        if not math.isfinite(norm):
            raise self._diverged(member, member.steps_done + 1, f"the gradient's norm is {norm}", _SMALLER)
        limit = member.spec.kl_limit
        if limit is not None and not abs(kl) <= limit:
            far = f"the mean divergence from the base is {kl:.4g}, learner.kl_limit is {limit:g}"
            raise self._diverged(member, member.steps_done + 1, far, f"{_SMALLER}, or raise the limit")

    def _check_z(self, member: Member) -> None:
        """Before anybody keeps a step that leads to no z."""
        try:
            self.weights.z(member.spec, member.p)
        except InvalidZ as error:
            raise self._diverged(member, member.steps_done, error.message, _SMALLER) from error

    def _diverged(self, member: Member, step: int, what: str, remedy: str) -> TrainingDiverged:
        place = self._recorded.get(member)
        where = f"; the samples of that step are in {place}" if place else ""
        return TrainingDiverged(f"expert {member.name!r}, step {step}: {what}", f"{remedy}{where}")


def _of_all(rollouts: Sequence[Rollout], used: Sequence[Rollout], advantages: Tensor) -> Tensor:
    """The advantages of all samples, NaN where one is not used: [N]."""
    known = {id(rollout): float(value) for rollout, value in zip(used, advantages, strict=True)}
    return torch.tensor([known.get(id(rollout), math.nan) for rollout in rollouts])


def _due(member: Member) -> bool:
    every = member.spec.validate_every
    return every > 0 and (member.steps_done % every == 0 or member.steps_done == member.spec.steps)


def _advantages(member: Member, rollouts: Sequence[Rollout], rewards: Tensor, means: Means) -> Tensor:
    if member.spec.objective == "supervised" or not rollouts:
        return torch.ones(len(rollouts))
    groups = torch.tensor([rollout.group for rollout in rollouts])
    return ESTIMATORS[member.spec.estimator](rewards, groups, means)
