"""One expert in training: its task, what Adam moves, and how far it is."""

from __future__ import annotations

import random
from collections import deque

import torch
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.errors import CheckpointError
from zfleet.rewards.grading import part_names
from zfleet.rl.checkpoint import LearnerState
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.rollout import Turn, draw_prompts
from zfleet.rl.schedule import SCHEDULES
from zfleet.rl.selection import Selection
from zfleet.rl.weights import Weights
from zfleet.tasks.split import set_aside
from zfleet.tasks.task import Task

_MEMORY = 0.9
"""How much of the moving average of rewards a step leaves."""


class Member:
    """One expert of a cohort.

    Attributes:
        name: What records and errors call it.
        task: What it learns from; without the prompts set aside for validation.
        validation: Those prompts.
        spec: How it learns.
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
    ) -> None:
        """Begin at the base.

        Raises:
            TaskError: A split is empty.
        """
        self.name = name
        self.spec = spec
        self.task, self.validation = set_aside(task, spec.validation_samples if spec.validate_every else 0)
        self.skip_failed_rewards = skip_failed_rewards
        self.p = weights.start(spec).requires_grad_()
        self.optimizer = torch.optim.Adam([self.p], lr=spec.lr)
        self.steps_done = 0
        self.mean_reward: float | None = None
        self.selection = Selection()
        self.parts = part_names(task.reward)
        self._weights = weights
        self._past: deque[Tensor] = deque(maxlen=spec.staleness)
        torch.manual_seed(spec.seed)
        random.seed(spec.seed)

    @property
    def done(self) -> bool:
        """Whether it takes no more steps: all are done, or validation stopped it."""
        patience = self.spec.patience
        return self.steps_done >= self.spec.steps or (patience is not None and self.selection.worse >= patience)

    @property
    def answered_by(self) -> int:
        """Steps that the z had learned which answers this step's prompts."""
        return max(0, self.steps_done - self.spec.staleness)

    @property
    def chosen(self) -> Tensor:
        """The p to keep: the best by validation, or the last."""
        return self.p.detach() if self.selection.p is None else self.selection.p

    @property
    def chosen_step(self) -> int:
        """Steps that it had learned."""
        return self.steps_done if self.selection.p is None else self.selection.step

    def turn(self, step: int, z: str, z_step: int, workers: DataParallel) -> Turn:
        """What this worker asks for in a step."""
        each = self.spec.prompts_per_step
        prompts = draw_prompts(self.task.train, self.spec.seed, step * each, each)
        first, mine = workers.share(prompts)
        return Turn(self.task, self.spec, mine, step, z, z_step, first, self.skip_failed_rewards)

    def p_at(self, step: int) -> Tensor:
        """What p was after ``step`` steps, of those that answers under way may come from; a copy, which stays so."""
        return [*self._past, self.p][step - self.steps_done - 1].detach().clone()

    def apply(self, gradient: Tensor | None) -> float:
        """One step of Adam; the gradient's norm before it was clipped.

        Args:
            gradient: [P]; None where there was no sample to learn from: p stays, which Adam's momentum would move.
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

    def remember(self, reward: float) -> None:
        """Move the average of rewards by the mean of a step's samples that were learned from."""
        before = reward if self.mean_reward is None else self.mean_reward
        self.mean_reward = _MEMORY * before + (1 - _MEMORY) * reward

    def state(self) -> LearnerState:
        """All that a later process needs to go on exactly from here."""
        return LearnerState.capture(
            self.p,
            self.optimizer,
            list(self._past),
            self.selection,
            step=self.steps_done,
            mean_reward=self.mean_reward,
            factors=self._weights.model.factors.digest,
        )

    def restore(self, state: LearnerState) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: It was made on other factors, or with other settings.
        """
        factors = self._weights.model.factors.digest
        if state.factors != factors or state.tensors["p"].shape != self.p.shape:
            raise CheckpointError(
                f"the checkpoint was made on factors {state.factors[:12]}, this run uses {factors[:12]}",
                "resume with the same base and targets, or give the run another name",
            )
        self._past.clear()
        self._past.extend(state.apply(self.p, self.optimizer))
        self.selection = state.selection(self.p.device)
        self.steps_done, self.mean_reward = state.step, state.mean_reward
