"""Findings of an experiment: means with intervals over seeds and prompts, and which method won."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from zfleet.evaluate.statistics.crossed import accuracy, average, difference, ratio
from zfleet.evaluate.statistics.estimate import Estimate
from zfleet_jobs.compare.outcome import Outcome


@dataclass(frozen=True)
class Finding:
    """One method on one task, over the seeds that finished.

    Attributes:
        task, method: Which.
        seeds: How many finished.
        n: Held-out prompts graded.
        before: Accuracy of the base.
        accuracy: Of what was learned, on the prompts that every seed graded.
        reward_before: Mean reward of the base.
        reward: Mean reward of what was learned, on the same prompts.
        parameters: Numbers trained.
        seconds: Of one training, mean.
        held_mib: Memory that the opened base and engine took, mean.
        peak_mib: The most that a training took, the opened base included, mean.
    """

    task: str
    method: str
    seeds: int
    n: int
    before: float
    accuracy: Estimate
    reward_before: float
    reward: Estimate
    parameters: int
    seconds: float
    held_mib: float
    peak_mib: float


@dataclass(frozen=True)
class Ratio:
    """One method's accuracy over another's on one task, over the seeds that both finished.

    Attributes:
        task, method, against: Which.
        seeds: How many both finished.
        n: Held-out prompts that every one of these trainings graded.
        ratio: Of accuracies; None if the other has nothing right.
        difference: Of accuracies, paired by seed and prompt.
        parameters: Share of the other's numbers.
    """

    task: str
    method: str
    against: str
    seeds: int
    n: int
    ratio: Estimate | None
    difference: Estimate
    parameters: float

    @property
    def verdict(self) -> str:
        """Which method won, if the interval of the difference says so."""
        if self.difference.low is not None and self.difference.low > 0:
            return f"{self.method} wins"
        if self.difference.high is not None and self.difference.high < 0:
            return f"{self.against} wins"
        return "not shown"


def findings(outcomes: Sequence[Outcome]) -> list[Finding]:
    """Average over seeds, task by task."""
    return [_finding(task, method, some) for (task, method), some in _grouped(outcomes).items()]


def ratios(outcomes: Sequence[Outcome], against: str) -> list[Ratio]:
    """Compare every other method with one, task by task; the same seed drew the same prompts for both."""
    grouped = _grouped(outcomes)
    compared = []
    for (task, method), some in grouped.items():
        other = {outcome.seed: outcome for outcome in grouped.get((task, against), [])}
        mine = [outcome for outcome in some if outcome.seed in other]
        if method != against and mine:
            compared.append(_ratio(mine, [other[outcome.seed] for outcome in mine]))
    return [one for one in compared if one is not None]


def _grouped(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """Group outcomes by task and method, in the order of the experiment, without empty groups."""
    tasks, methods = (list(dict.fromkeys(getattr(one, key) for one in outcomes)) for key in ("task", "method"))
    grouped = {
        (task, method): [one for one in outcomes if (one.task, one.method) == (task, method)]
        for task in tasks
        for method in methods
    }
    return {key: some for key, some in grouped.items() if some}


def _finding(task: str, method: str, some: Sequence[Outcome]) -> Finding:
    rewards = _graded_by_all(some)
    shared = bool(rewards[0])
    return Finding(
        task,
        method,
        len(some),
        min(one.n for one in some),
        mean(one.before for one in some),
        accuracy(_right(rewards)) if shared else Estimate(mean(one.accuracy for one in some), None, None),
        mean(one.reward_before for one in some),
        average(rewards) if shared else Estimate(mean(one.reward for one in some), None, None),
        some[0].parameters,
        mean(one.seconds for one in some),
        mean(one.held_mib for one in some),
        mean(one.peak_mib for one in some),
    )


def _ratio(mine: Sequence[Outcome], theirs: Sequence[Outcome]) -> Ratio | None:
    """Compare trainings with the same seeds, in the same order; None if no prompt was graded by all."""
    right = _right(_graded_by_all([*mine, *theirs]))
    if not right[0]:
        return None
    ours, others = right[: len(mine)], right[len(mine) :]
    differences = [[a - b for a, b in zip(*seed, strict=True)] for seed in zip(ours, others, strict=True)]
    return Ratio(
        mine[0].task,
        mine[0].method,
        theirs[0].method,
        len(mine),
        len(right[0]),
        ratio(ours, others),
        difference(differences),
        mine[0].parameters / theirs[0].parameters,
    )


def _graded_by_all(some: Sequence[Outcome]) -> list[list[float]]:
    """Select each training's rewards of the prompts that all of them graded: [trainings, prompts]."""
    of_prompts = [rewards for rewards in zip(*(one.rewards for one in some), strict=True) if None not in rewards]
    return [[rewards[place] for rewards in of_prompts] for place in range(len(some))]


def _right(rewards: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return 1 for each answer that is right and 0 for the others."""
    return [[float(reward > 0) for reward in of_training] for of_training in rewards]
