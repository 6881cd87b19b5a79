"""What a step did, for curves and displays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.rl.answers import Answered
from zfleet.rl.member import Member
from zfleet.rl.rollout import Rollout
from zfleet.tasks.task import Grade


@dataclass(frozen=True)
class StepReport:
    """What one step did to one member, over all workers.

    Attributes:
        expert: The member's name.
        step: From 1.
        reward: Mean over the samples that were graded; None where none was.
        kl: Mean divergence from the base per sample; 0 where the spec does not use it.
        grad_norm: Before clipping.
        samples: How many were graded.
        skipped: How many were left out because their reward failed, could not tell, or said that they are not its
            task's.
        truncated: How many were cut at ``max_tokens``.
        used: How many were learned from.
        tokens: How many were sampled, those that were not graded included.
        staleness: Steps between the z that was sampled from and the one that learned.
        rollout_seconds: Of this worker, for the batch that answered and graded, all members together.
        wait_seconds: Of that, what the learner waited.
        learn_seconds: Of this worker, for the gradient step, all members together.
        validation: Mean reward of the validation prompts after this step, where it was measured.
        parts: Of a reward of several parts, the mean of each over the samples that it graded; without those that graded
            none.
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


def sample_sums(member: Member, rollouts: Sequence[Rollout], used: Sequence[Rollout], distance: float) -> Tensor:
    """Sums over one worker's samples.

    Reward, divergence, those graded, those cut, those used, tokens; the reward of each part, and how many it graded.
    """
    grades = [rollout.grade for rollout in rollouts if isinstance(rollout.grade, Grade)]
    parts = [[grade.parts[name] for grade in grades if name in grade.parts] for name in member.parts]
    return torch.tensor(
        [
            sum(grade.value for grade in grades),
            distance,
            len(grades),
            sum(rollout.finish == "length" for rollout in rollouts),
            len(used),
            sum(len(rollout.completion) for rollout in rollouts),
            *(sum(part) for part in parts),
            *(len(part) for part in parts),
        ],
        dtype=torch.float64,
    )


def step_report(
    member: Member,
    answered: Answered,
    sums: Sequence[float],
    norm: float,
    validation: float | None,
    waited: float,
    learned: float,
) -> StepReport:
    """The report of a step that was taken.

    Args:
        sums: As of ``sample_sums``, over all workers.
    """
    reward, kl, samples, truncated, used, tokens, *parts = sums
    values, counts = parts[: len(member.parts)], parts[len(member.parts) :]
    asked = member.spec.prompts_per_step * member.spec.samples_per_prompt
    return StepReport(
        expert=member.name,
        step=member.steps_done,
        reward=reward / samples if samples else None,
        kl=kl / max(used, 1.0),
        grad_norm=norm,
        samples=int(samples),
        skipped=asked - int(samples),
        truncated=int(truncated),
        used=int(used),
        tokens=int(tokens),
        staleness=member.steps_done - 1 - answered.z_step,
        rollout_seconds=answered.seconds,
        wait_seconds=waited,
        learn_seconds=learned,
        validation=validation,
        parts={name: sum_ / n for name, sum_, n in zip(member.parts, values, counts, strict=True) if n},
    )
