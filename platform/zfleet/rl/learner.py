"""The learning loop: draw prompts, roll out, grade, compare, and move each expert's z by one Adam step.

Experts in training form a cohort: their answers share the engine's batches, and their samples the micro-batches
forward and backward, over one copy of the base. Only z has a gradient, and each expert's is its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z
from zfleet.errors import InvalidZ, TrainingDiverged
from zfleet.evaluate.graded import answers_graded, nothing_graded
from zfleet.rl.batch import ExpertBatch, compare
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.gradient import summed_gradients
from zfleet.rl.report import SampleSums, StepReport, step_report
from zfleet.rl.rollout import Rollout
from zfleet.rl.sampler import Sampler, StepRollouts
from zfleet.rl.weights import Weights
from zfleet.tasks.task import Sample

_REMEDY = "lower learner.lr, or raise learner.kl"


@dataclass(frozen=True)
class HeldOutScore:
    """Held-out prompts graded, over all workers.

    Attributes:
        reward: Their mean reward.
        accuracy: The fraction answered right.
        n: How many were graded.
        rewards: Of this worker's prompts, in their order; None for one that was not graded.
    """

    reward: float
    accuracy: float
    n: int
    rewards: tuple[float | None, ...]


@dataclass(frozen=True, eq=False)
class StepSamples:
    """The samples of one step, before anything is learned from them.

    Attributes:
        batches: Of each expert that takes the step.
        rollouts: What each batch was made from.
        wait_seconds: How long the learner waited for the rollouts.
        sampled_at: When they were there (``time.perf_counter``).
    """

    batches: Sequence[ExpertBatch]
    rollouts: Sequence[StepRollouts]
    wait_seconds: float
    sampled_at: float


@dataclass(frozen=True, eq=False)
class MeanGradients:
    """What a step's samples say of each expert, over all workers.

    Attributes:
        each: The gradient of each expert's mean loss, unclipped: [P].
        sums: Of each expert's samples.
    """

    each: Sequence[Tensor]
    sums: Sequence[SampleSums]


class Learner:
    """Trains one or more experts over one base."""

    def __init__(
        self,
        weights: Weights,
        engine: SyncEngine,
        experts: Sequence[ExpertInTraining],
        workers: DataParallel | None = None,
    ) -> None:
        """Hold what a step needs.

        Args:
            weights: What is learned over the base; all experts are made with it.
            engine: Rolls out; it may run on the same model.
            experts: The cohort.
            workers: This worker's place among several.
        """
        if weights.limit is not None and len(experts) > weights.limit:
            raise ValueError(f"{type(weights).__name__} learns {weights.limit} at once, not {len(experts)}")
        self.weights = weights
        self.engine = engine
        self.experts = experts
        self.workers = workers or DataParallel()
        self._sampler = Sampler(engine, weights, self.workers)

    def step(self) -> list[StepReport]:
        """Take one step of every expert that is not done: ``sample``, then ``learn``."""
        return self.learn(self.sample())

    def sample(self) -> StepSamples:
        """Sample, grade and compare what the next step of every expert that is not done learns from.

        Raises:
            RewardError: A reward function raised.
        """
        experts = [expert for expert in self.experts if not expert.done]
        for expert in experts:
            if expert.spec.validate_every and not expert.steps_done and expert.selection.score is None:
                self._validate(expert)
        began = time.perf_counter()
        rollouts = self._sampler.take(experts)
        sampled_at = time.perf_counter()
        batches = self.compare(experts, [one.rollouts for one in rollouts])
        return StepSamples(batches, rollouts, sampled_at - began, sampled_at)

    def learn(self, samples: StepSamples) -> list[StepReport]:
        """Take the step: the same on any number of workers, up to rounding.

        Raises:
            TrainingDiverged: A gradient or a z is not finite, or a divergence above its limit: the step must not be
                checkpointed. If it is the gradient or the divergence, no expert is changed.
        """
        began_at = [self._digest(batch.expert) for batch in samples.batches]
        gradients = self.mean_gradients(samples.batches)
        norms, reached = self._apply(samples.batches, gradients)
        learn_seconds = time.perf_counter() - samples.sampled_at
        experts = [batch.expert for batch in samples.batches]
        validations = [self._validate(expert) if _validates(expert) else None for expert in experts]
        return [
            step_report(
                expert,
                rollouts,
                sums,
                norm,
                validation,
                samples.wait_seconds,
                learn_seconds,
                digests,
            )
            for expert, rollouts, sums, norm, validation, *digests in zip(
                experts, samples.rollouts, gradients.sums, norms, validations, began_at, reached, strict=True
            )
        ]

    def compare(self, experts: Sequence[ExpertInTraining], rollouts: Sequence[Sequence[Rollout]]) -> list[ExpertBatch]:
        """Compute the advantages of this worker's rollouts of each expert."""
        return compare(self.weights, self.workers, experts, rollouts)

    def mean_gradients(self, batches: Sequence[ExpertBatch]) -> MeanGradients:
        """Compute the gradients of a step, over the samples of all workers."""
        each, kl = summed_gradients(self.weights, batches)
        sums = []
        for batch, kl_in_loss, gradient in zip(batches, kl.tolist(), each, strict=True):
            spec = batch.expert.spec
            divergence = kl_in_loss if spec.kl_in == "loss" else float(batch.penalties.sum()) / spec.kl
            sums.append(SampleSums.of(batch.expert.parts, batch.rollouts, batch.used, divergence, gradient.device))
        for tensor in (*(one.values for one in sums), *each):
            self.workers.sum(tensor)
        return MeanGradients([one.mean(gradient) for one, gradient in zip(sums, each, strict=True)], sums)

    def measure(
        self, expert: ExpertInTraining, samples: Sequence[Sample], p: Tensor | None, temperature: float = 0.0
    ) -> HeldOutScore:
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
            with self._sampler.published(None if p is None else self.weights.z(expert.spec, p)) as (digest,):
                graded = answers_graded(
                    self.engine,
                    self.weights.model.base.tokenizer,
                    expert.task,
                    share,
                    [digest] * len(share),
                    temperature,
                    expert.skip_failed_rewards,
                    first,
                )
            rewards = graded.graded
            sums += sums.new_tensor([sum(graded.rewards), graded.right, graded.n])
        reward, right, n = self.workers.sum(sums).tolist()
        if not n:
            raise nothing_graded(expert.task, len(samples))
        return HeldOutScore(reward / n, right / n, int(n), rewards)

    def close(self) -> None:
        """Wait for answers under way, which nobody will learn from."""
        self._sampler.close()

    def _validate(self, expert: ExpertInTraining) -> float:
        score = self.measure(expert, expert.validation, expert.p.detach()).reward
        expert.selection = expert.selection.updated(score, expert.steps_done, expert.p)
        return score

    def _apply(self, batches: Sequence[ExpertBatch], gradients: MeanGradients) -> tuple[list[float], list[str]]:
        """Move every expert; return the norm of each gradient, and the digest of the z that each has reached."""
        # All are checked before one is changed: a step is taken by every expert or by none. Clipping follows the
        # all-reduce: every worker clips the same gradient and stays equal to the others.
        for batch, gradient, sums in zip(batches, gradients.each, gradients.sums, strict=True):
            _check_gradient(batch.expert, gradient, sums.divergence)
        norms = []
        for batch, gradient, sums in zip(batches, gradients.each, gradients.sums, strict=True):
            norms.append(batch.expert.apply(gradient if sums.used else None))
            if sums.used:
                batch.expert.average_reward(batch.means.step)
        return norms, [self._reached(batch.expert) for batch in batches]

    def _digest(self, expert: ExpertInTraining) -> str:
        """Return the digest of the z at which an expert stands, as answers under it say it."""
        z = self.weights.z(expert.spec, expert.p)
        return BASE_Z if z is None else z.digest

    def _reached(self, expert: ExpertInTraining) -> str:
        """As ``_digest``, after a step: refuse one that leads to no z, before anybody checkpoints it."""
        try:
            return self._digest(expert)
        except InvalidZ as error:
            raise _diverged(expert, expert.steps_done, error.message, _REMEDY) from error


def _check_gradient(expert: ExpertInTraining, gradient: Tensor, kl: float) -> None:
    step = expert.steps_done + 1
    norm = float(gradient.norm())
    if not math.isfinite(norm):
        raise _diverged(expert, step, f"the gradient's norm is {norm}", _REMEDY)
    limit = expert.spec.kl_limit
    if limit is not None and not abs(kl) <= limit:
        beyond = f"the mean divergence from the base is {kl:.4g}, learner.kl_limit is {limit:g}"
        raise _diverged(expert, step, beyond, f"{_REMEDY}, or raise the limit")


def _diverged(expert: ExpertInTraining, step: int, what: str, remedy: str) -> TrainingDiverged:
    return TrainingDiverged(f"expert {expert.name!r}, step {step}: {what}", remedy, expert.name)


def _validates(expert: ExpertInTraining) -> bool:
    """Whether the step that was just taken is followed by a validation."""
    every = expert.spec.validate_every
    return every > 0 and (expert.steps_done % every == 0 or expert.steps_done == expert.spec.steps)
