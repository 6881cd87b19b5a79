"""An expert in training: its task, what Adam moves, and how far it is."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.errors import CheckpointError
from zfleet.rewards.grading import part_names
from zfleet.rl.checkpoint import Checkpoint, Selection
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.rollout import RolloutRequest, draw_prompts
from zfleet.rl.weights import Weights
from zfleet.tasks.split import set_aside
from zfleet.tasks.task import Task

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}
"""From the share of steps done, 0 before the first, to the share of ``lr``; cosine: arXiv 1608.03983, one cycle."""

_DECAY = 0.9
"""Weight of the earlier steps in the moving average of rewards."""


class ExpertInTraining:
    """One expert of a cohort.

    Attributes:
        name: What records and errors call it.
        task: What it learns from; without the prompts set aside for validation.
        validation: Those prompts.
        spec: How it learns.
        start: The p [P] that it began at; None for that of the base.
        p: What Adam moves: [P].
        steps_done: Steps taken.
        mean_reward: Moving average over the steps; None before the first.
        selection: What validations found.
        parts: Names of the parts of its reward: the same on every worker, whatever its samples are graded.
    """

    def __init__(
        self,
        weights: Weights,
        task: Task,
        spec: LearnerSpec,
        name: str = "expert",
        skip_failed_rewards: bool = False,
        start: Tensor | None = None,
    ) -> None:
        """Begin at a p, by default that of the base.

        Args:
            weights: What is learned over the base.
            task: Its task, the prompts for validation included.
            spec: How to learn.
            name: What records and errors call it.
            skip_failed_rewards: Leave out samples whose reward function fails.
            start: The p [P] to begin at, such as that of a mixture; it is copied.

        Raises:
            TaskError: A split is empty.
        """
        self.name = name
        self.spec = spec
        self.task, self.validation = set_aside(task, spec.validation_samples if spec.validate_every else 0)
        self.skip_failed_rewards = skip_failed_rewards
        self.start = start
        self.p = (weights.start(spec) if start is None else start.clone()).requires_grad_()
        self.optimizer = torch.optim.Adam([self.p], lr=spec.lr)
        self.steps_done = 0
        self.mean_reward: float | None = None
        self.selection = Selection()
        self.parts = part_names(task.reward)
        self._weights = weights
        self._past: deque[Tensor] = deque(maxlen=spec.staleness)

    @property
    def done(self) -> bool:
        """Whether it takes no more steps: all are done, or validation stopped it."""
        patience = self.spec.patience
        return self.steps_done >= self.spec.steps or (patience is not None and self.selection.worse >= patience)

    @property
    def sampling_step(self) -> int:
        """After how many steps the z was reached that this step's answers are sampled from."""
        return max(0, self.steps_done - self.spec.staleness)

    @property
    def selected_p(self) -> Tensor:
        """The p [P] that training results in: the best by validation, or the last."""
        return self.p.detach() if self.selection.p is None else self.selection.p

    @property
    def selected_step(self) -> int:
        """After how many steps ``selected_p`` was reached."""
        return self.steps_done if self.selection.p is None else self.selection.step

    def rollout_request(self, step: int, z_digest: str, z_step: int, workers: DataParallel) -> RolloutRequest:
        """Say what this worker samples for a step, counted from 0, under a z that was reached after ``z_step``."""
        each = self.spec.prompts_per_step
        prompts = draw_prompts(self.task.train, self.spec.seed, step * each, each)
        first, mine = workers.share(prompts)
        return RolloutRequest(self.task, self.spec, mine, step, z_digest, z_step, first, self.skip_failed_rewards)

    def p_at(self, step: int) -> Tensor:
        """Copy the p [P] that was reached after ``step`` steps, at most ``staleness`` ago."""
        return [*self._past, self.p][step - self.steps_done - 1].detach().clone()

    def apply(self, gradient: Tensor | None) -> float:
        """Take one step of Adam, and return the gradient's norm before it was clipped.

        Args:
            gradient: [P]; None if there was no sample to learn from: p stays, which Adam's momentum would move.
        """
        self._past.append(self.p.detach().clone())
        norm = 0.0
        if gradient is not None:
            self.p.grad = gradient
            norm = float(torch.nn.utils.clip_grad_norm_([self.p], self.spec.clip))
            share = SCHEDULES[self.spec.schedule](self.steps_done / self.spec.steps)
            self.optimizer.param_groups[0]["lr"] = self.spec.lr * share
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.steps_done += 1
        return norm

    def average_reward(self, reward: float) -> None:
        """Move the average of rewards by the mean of a step's samples that were learned from."""
        before = reward if self.mean_reward is None else self.mean_reward
        self.mean_reward = _DECAY * before + (1 - _DECAY) * reward

    def checkpoint(self) -> Checkpoint:
        """Copy all that a later process needs to go on exactly from here."""
        return Checkpoint.capture(
            self.p,
            self.optimizer,
            list(self._past),
            self.selection,
            step=self.steps_done,
            mean_reward=self.mean_reward,
            factors=self._weights.model.factors.digest,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: It was made on other factors, or with other settings.
        """
        factors = self._weights.model.factors.digest
        if checkpoint.factors != factors or checkpoint.tensors["p"].shape != self.p.shape:
            raise CheckpointError(
                f"the checkpoint was made on factors {checkpoint.factors[:12]}, this run uses {factors[:12]}",
                "resume with the same base and targets, or give the run another name",
            )
        self._past.clear()
        self._past.extend(checkpoint.apply(self.p, self.optimizer))
        self.selection = checkpoint.selection(self.p.device)
        self.steps_done, self.mean_reward = checkpoint.step, checkpoint.mean_reward
