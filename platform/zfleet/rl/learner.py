"""The learning loop: draw prompts, roll out, grade, compare, and move z by one Adam step.

Only z has a gradient. The engine that rolls out shares the learner's model; each step the learner
publishes its z by ``put_z``, the same door that serving uses.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.config.specs import LearnerSpec
from zfleet.engine.sync import SyncEngine
from zfleet.errors import InvalidZ
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_logits
from zfleet.rewards.weighted import part_names
from zfleet.rl.advantages import ESTIMATORS, Means
from zfleet.rl.checkpoint import LearnerState
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.loss import divergence, policy_loss
from zfleet.rl.parametrisation import PARAMETRISATIONS
from zfleet.rl.rollout import Rollout, draw_prompts, roll_out
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Task

_MEMORY = 0.9
"""How much of the moving average of rewards a step leaves."""


@dataclass(frozen=True)
class StepReport:
    """What one step did, over all workers.

    Attributes:
        step: From 1.
        reward: Mean over samples.
        kl: Mean divergence from the base per sample; 0 where the loss does not use it.
        grad_norm: Before clipping.
        samples: How many were graded.
        skipped: How many were left out because their reward failed.
        tokens: How many were sampled.
        rollout_seconds: Of this worker, for answering and grading.
        learn_seconds: Of this worker, for the gradient step.
        parts: Of a reward of several parts, the mean of each.
    """

    step: int
    reward: float
    kl: float
    grad_norm: float
    samples: int
    skipped: int
    tokens: int
    rollout_seconds: float
    learn_seconds: float
    parts: Mapping[str, float]


class Learner:
    """Trains one z on one task."""

    def __init__(
        self,
        model: SvfModel,
        engine: SyncEngine,
        task: Task,
        spec: LearnerSpec,
        workers: DataParallel | None = None,
        skip_failed_rewards: bool = False,
        record: Callable[[int, Sequence[Rollout]], None] = lambda step, rollouts: None,
    ) -> None:
        """Prepare.

        Args:
            model: The base in SVF form.
            engine: What rolls out; it knows the same factors.
            task: What to learn.
            spec: How.
            workers: This worker's place among several.
            skip_failed_rewards: Leave out samples whose reward function fails.
            record: Given each step's number and this worker's samples, before the step is taken.
        """
        self.model = model
        self.engine = engine
        self.task = task
        self.spec = spec
        self.workers = workers or DataParallel()
        self.skip_failed_rewards = skip_failed_rewards
        self._record = record
        self.shape = PARAMETRISATIONS[spec.parametrisation](model.factors, model.device)
        self.p = self.shape.start().requires_grad_()
        self.optimizer = torch.optim.Adam([self.p], lr=spec.lr)
        self.steps_done = 0
        self.position = 0
        self.mean_reward: float | None = None
        # The same on every worker, whatever its samples are graded.
        self._parts = part_names(task.reward)
        torch.manual_seed(spec.seed)
        random.seed(spec.seed)

    def z(self) -> ZVector:
        """The z as it stands.

        Raises:
            InvalidZ: Training diverged.
        """
        with torch.no_grad():
            return self.model.z_from_flat(self.shape.z(self.p))

    def step(self) -> StepReport:
        """One step: the same on any number of workers, up to rounding.

        Raises:
            RewardError: The reward function raised.
            InvalidZ: Training diverged; the last checkpoint is untouched.
        """
        began = time.perf_counter()
        rollouts = self._roll_out()
        rolled = time.perf_counter()
        self._record(self.steps_done + 1, rollouts)
        gradient, sums = self.gradient(rollouts)
        norm = self._apply(gradient)
        self._remember(sums)
        self.steps_done += 1
        self.position += self.spec.prompts_per_step
        learned = time.perf_counter()
        samples = max(int(sums[2]), 1)
        return StepReport(
            self.steps_done,
            reward=float(sums[0]) / samples,
            kl=float(sums[1]) / samples,
            grad_norm=norm,
            samples=int(sums[2]),
            skipped=self.spec.prompts_per_step * self.spec.samples_per_prompt - int(sums[2]),
            tokens=int(sums[3]),
            rollout_seconds=rolled - began,
            learn_seconds=learned - rolled,
            parts={name: float(value) / samples for name, value in zip(self._parts, sums[4:], strict=True)},
        )

    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """The gradient of the mean loss over the samples of all workers, unclipped.

        Args:
            rollouts: This worker's samples.

        Returns:
            The gradient in p [R], and over all workers the sums [reward, divergence, samples, tokens, *parts].
        """
        loss, kl = self._loss(rollouts, self._means(rollouts))
        gradient = torch.autograd.grad(loss, self.p)[0]
        sums = torch.tensor(
            [
                sum(rollout.grade.value for rollout in rollouts),
                float(kl),
                len(rollouts),
                sum(len(rollout.completion) for rollout in rollouts),
                *(sum(rollout.grade.parts.get(name, 0.0) for rollout in rollouts) for name in self._parts),
            ],
            dtype=torch.float64,
            device=gradient.device,
        )
        self.workers.sum(sums)
        self.workers.sum(gradient)
        return gradient / sums[2].clamp_min(1).float(), sums

    def state(self) -> LearnerState:
        """All that a later process needs to go on exactly from here."""
        return LearnerState.capture(
            self.p, self.optimizer, self.steps_done, self.position, self.mean_reward, self.model.factors.digest
        )

    def restore(self, state: LearnerState) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: It was made on other factors.
        """
        state.apply(self.p, self.optimizer, self.model.factors.digest)
        self.steps_done, self.position, self.mean_reward = state.step, state.position, state.mean_reward

    def _roll_out(self) -> list[Rollout]:
        spec = self.spec
        prompts = draw_prompts(self.task.train, spec.seed, self.position, spec.prompts_per_step)
        first, mine = self.workers.share(prompts)
        tokenizer = self.model.base.tokenizer
        z = self.engine.put_z(self.z())
        try:
            return roll_out(
                self.engine, tokenizer, self.task, mine, z, self.steps_done, spec, self.skip_failed_rewards, first
            )
        finally:
            self.engine.drop_z(z)

    def _means(self, rollouts: Sequence[Rollout]) -> Means:
        rewards = [rollout.grade.value for rollout in rollouts]
        total = torch.tensor([sum(rewards), len(rewards)], dtype=torch.float64, device=self.p.device)
        reward, count = self.workers.sum(total).tolist()
        return Means(reward / max(count, 1.0), self.mean_reward or 0.0)

    def _remember(self, sums: Tensor) -> None:
        if sums[2]:
            mean = float(sums[0] / sums[2])
            before = mean if self.mean_reward is None else self.mean_reward
            self.mean_reward = _MEMORY * before + (1 - _MEMORY) * mean

    def _loss(self, rollouts: Sequence[Rollout], means: Means) -> tuple[Tensor, Tensor]:
        """The loss and the divergence, both summed over samples."""
        if not rollouts:
            return self.p.sum() * 0, torch.zeros(())
        images = [rollout.images for rollout in rollouts]
        prompts = [self.model.spread(rollout.prompt, rollout.images) for rollout in rollouts]
        completions = [rollout.completion for rollout in rollouts]
        rewards = torch.tensor([rollout.grade.value for rollout in rollouts])
        groups = torch.tensor([rollout.group for rollout in rollouts])
        advantages = ESTIMATORS[self.spec.estimator](rewards, groups, means).to(self.model.device)
        rows = self.shape.z(self.p).expand(len(rollouts), -1)
        policy = completion_logits(self.model, prompts, completions, rows, images)
        # The policy is what was sampled from.
        loss = policy_loss(policy.logprobs(self.spec.temperature), advantages)
        if self.spec.kl == 0:
            return loss, torch.zeros(())
        with torch.no_grad():
            reference = completion_logits(self.model, prompts, completions, None, images)
        kl = divergence(policy, reference)
        return loss + self.spec.kl * kl, kl.detach()

    def _apply(self, gradient: Tensor) -> float:
        # Clipping follows the all-reduce: every worker clips the same gradient and stays equal to the others.
        self.p.grad = gradient
        norm = float(torch.nn.utils.clip_grad_norm_([self.p], self.spec.clip))
        if not math.isfinite(norm):
            raise InvalidZ(
                f"the gradient of step {self.steps_done + 1} is {norm}", "lower learner.lr, or raise learner.kl"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm
