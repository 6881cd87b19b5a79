"""What tests of jobs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from zfleet.rl.rollout import Rollout
from zfleet.tasks.task import Grade, Sample, Ungraded
from zfleet_jobs.run_folder.samples import write_samples
from zfleet_jobs.samples.layout import Training


@pytest.fixture
def write() -> Callable[..., None]:
    """``write(storage, step, [(prompt, completion, reward, advantage)])``: what a worker of the run ``lab`` writes.

    A reward of None: its sample is not graded.
    """
    return _write


def _write(
    storage: Path | str,
    step: int,
    made: Sequence[tuple[str, str, float | None, float]],
    expert: str = "sort",
    rank: int = 0,
    digest: str = "0123456789ab",
    run: str = "lab",
) -> None:
    rollouts = [
        Rollout(Sample(name, name), group, (1,), (2, 3), text, _grade(reward))
        for group, (name, text, reward, _) in enumerate(made)
    ]
    advantages = torch.tensor([advantage for *_, advantage in made], dtype=torch.float64)
    write_samples(Training(run, expert, digest).folder_in(str(storage)), step, rank, rollouts, advantages)


def _grade(reward: float | None) -> Grade | Ungraded:
    if reward is None:
        return Ungraded("none of its task's")
    return Grade(reward, None, f"graded {reward:g}", {"a": reward})
