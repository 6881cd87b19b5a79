"""Reports of steps, for curves and displays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.rollout import Rollout
from zfleet.rl.sampler import StepRollouts
from zfleet.tasks.task import Grade


@dataclass(frozen=True)
class StepReport:
    """The effect of one step on one expert, over all workers.

    Attributes:
        expert: Its name.
        step: From 1.
        reward: Mean over the samples that were graded; None if none was.
        kl: Mean divergence from the base per sample; 0 if the spec does not use it.
        grad_norm: Before clipping.
        samples: How many were graded.
        skipped: How many were left out because their reward failed, could not tell, or said that they are not its
            task's.
        truncated: How many were cut at ``max_tokens``.
        used: How many were learned from.
        tokens: How many were sampled, also in samples that were not graded.
        staleness: Steps between the z that was sampled from and the one that learned.
        rollout_seconds: Of this worker, for the batch that answered and graded, all experts together.
        wait_seconds: Of that, what the learner waited.
        learn_seconds: Of this worker, for the gradient step, all experts together.
        validation: Mean reward of the validation prompts after this step, if it was measured.
        parts: Means of the parts of the reward, each over the samples that it graded; without parts that graded none.
        began_at: The digest of the z at which the step began.
        reached: The digest of the z that it led to.
    """

    expert: str
    step: int
    reward: float | None
    kl: float
    grad_norm: float
    samples: int
    skipped: int
    truncated: int
    used: int
    tokens: int
    staleness: int
    rollout_seconds: float
    wait_seconds: float
    learn_seconds: float
    validation: float | None
    parts: Mapping[str, float]
    began_at: str
    reached: str


@dataclass(frozen=True, eq=False)
class SampleSums:
    """Sums over the samples of one expert's step, in one tensor, so that one all-reduce adds those of all workers.

    Only this class knows the tensor's order.

    Attributes:
        values: Reward, divergence, samples graded, cut and learned from, and tokens; then for each part of the reward
            its sum, and for each how many samples it graded: [6 + 2 * parts] float64.
        parts: The parts' names.
    """

    values: Tensor
    parts: Sequence[str]

    @classmethod
    def of(
        cls,
        parts: Sequence[str],
        rollouts: Sequence[Rollout],
        used: Sequence[Rollout],
        divergence: float,
        device: torch.device,
    ) -> SampleSums:
        """Add up one worker's samples.

        Args:
            parts: Names of the reward's parts.
            rollouts: All samples.
            used: Those that are learned from.
            divergence: From the base, summed over the samples that are learned from.
            device: Where to put the sums for the all-reduce.
        """
        grades = [rollout.grade for rollout in rollouts if isinstance(rollout.grade, Grade)]
        by_part = [[grade.parts[name] for grade in grades if name in grade.parts] for name in parts]
        values = torch.tensor(
            [
                sum(grade.value for grade in grades),
                divergence,
                len(grades),
                sum(rollout.finish == "length" for rollout in rollouts),
                len(used),
                sum(len(rollout.completion) for rollout in rollouts),
                *(sum(values) for values in by_part),
                *(len(values) for values in by_part),
            ],
            dtype=torch.float64,
        )
        return cls(values.to(device), parts)

    @property
    def reward(self) -> float | None:
        """Mean reward of the samples that were graded; None if none was."""
        return float(self.values[0]) / self.graded if self.graded else None

    @property
    def divergence(self) -> float:
        """Mean divergence from the base of the samples that are learned from; 0 if there are none."""
        return float(self.values[1]) / max(self.used, 1)

    @property
    def graded(self) -> int:
        """How many samples were graded."""
        return int(self.values[2])

    @property
    def truncated(self) -> int:
        """How many answers were cut at ``max_tokens``."""
        return int(self.values[3])

    @property
    def used(self) -> int:
        """How many samples are learned from."""
        return int(self.values[4])

    @property
    def tokens(self) -> int:
        """How many tokens were sampled."""
        return int(self.values[5])

    @property
    def part_means(self) -> dict[str, float]:
        """Mean of each part over the samples that it graded, without parts that graded none."""
        sums, counts = self.values[6:].reshape(2, len(self.parts)).tolist()
        return {name: sum_ / n for name, sum_, n in zip(self.parts, sums, counts, strict=True) if n}

    def mean(self, summed: Tensor) -> Tensor:
        """Divide a sum over the samples that are learned from by their number (by 1 if there are none)."""
        # Divide by a tensor on the same device: on a GPU, dividing by a number would round differently.
        return summed / self.values[4].clamp_min(1).float()


def step_report(
    expert: ExpertInTraining,
    rollouts: StepRollouts,
    sums: SampleSums,
    norm: float,
    validation: float | None,
    wait_seconds: float,
    learn_seconds: float,
    digests: Sequence[str],
) -> StepReport:
    """Report a step that was taken.

    Args:
        sums: Over all workers.
        digests: Of the z before the step and after it.
    """
    asked = expert.spec.prompts_per_step * expert.spec.samples_per_prompt
    return StepReport(
        expert=expert.name,
        step=expert.steps_done,
        reward=sums.reward,
        kl=sums.divergence,
        grad_norm=norm,
        samples=sums.graded,
        skipped=asked - sums.graded,
        truncated=sums.truncated,
        used=sums.used,
        tokens=sums.tokens,
        staleness=expert.steps_done - 1 - rollouts.z_step,
        rollout_seconds=rollouts.seconds,
        wait_seconds=wait_seconds,
        learn_seconds=learn_seconds,
        validation=validation,
        parts=sums.part_means,
        began_at=digests[0],
        reached=digests[1],
    )
