"""What tests of jobs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from zfleet.rl.rollout import Rollout
from zfleet.search.methods.cross_entropy import CrossEntropy
from zfleet.search.objective import Objective
from zfleet.search.plan import Plan
from zfleet.search.search import Search
from zfleet.search.space import Space
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
    write_samples(Training(run, expert, digest).folder_in(str(storage)), step, rank, rollouts, advantages, None)


def _grade(reward: float | None) -> Grade | Ungraded:
    if reward is None:
        return Ungraded("none of its task's")
    return Grade(reward, None, f"graded {reward:g}", {"a": reward})


Answered = Callable[[Sequence[Sequence[float]], Sequence[Sequence[int]]], list[list[list[float]]]]


@pytest.fixture(scope="session")
def small_search() -> Callable[..., Search]:
    """``small_search(seed, **plan)``: a search over two experts at its start; by default on four shots, without a race.

    Three more samples are for the selection, two for the test.
    """

    def make(seed: int = 0, objective: Objective | None = None, **plan: int | None) -> Search:
        sizes = {"shots": 4, "selection": 3, "test": 2, "generations": 3} | plan
        method = partial(CrossEntropy, population=7, seed=seed)
        return Search(Space(("one", "two")), method, objective or Objective(), Plan(**sizes))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def answered() -> Answered:
    """``answered(points, samples)``: accuracy and log-likelihood of each; candidates near (0.9, 0.3) are the best."""

    def value(point: Sequence[float], sample: int) -> list[float]:
        likely = -((point[0] - 0.9) ** 2) - (point[1] - 0.3) ** 2
        return [float(likely > -0.1 * (1 + sample % 4)), likely - 0.01 * sample]

    return lambda points, samples: [
        [value(point, sample) for sample in numbers] for point, numbers in zip(points, samples, strict=True)
    ]
