"""What tests of jobs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from zfleet.rl.rollout import Rollout
from zfleet.tasks.task import Grade, Sample
from zfleet_jobs.samples.layout import Training
from zfleet_jobs.train.samples import write_samples


@pytest.fixture
def write() -> Callable[..., None]:
    """``write(storage, step, [(prompt, completion, reward, advantage)])``: what a worker of the run ``lab`` writes."""
    return _write


def _write(
    storage: Path | str,
    step: int,
    made: Sequence[tuple[str, str, float, float]],
    expert: str = "sort",
    rank: int = 0,
    digest: str = "0123456789ab",
    run: str = "lab",
) -> None:
    rollouts = [
        Rollout(Sample(name, name), group, (1,), (2, 3), text, Grade(reward, None, f"graded {reward:g}", {"a": reward}))
        for group, (name, text, reward, _) in enumerate(made)
    ]
    advantages = torch.tensor([advantage for *_, advantage in made], dtype=torch.float64)
    write_samples(Training(run, expert, digest).folder_in(str(storage)), step, rank, rollouts, advantages)
