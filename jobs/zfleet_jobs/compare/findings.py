"""What an experiment shows: means with intervals, and who won."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from zfleet.statistics import Estimate, estimate
from zfleet_jobs.compare.trial import Outcome


@dataclass(frozen=True)
class Finding:
    """One method on one task, over all seeds.

    Attributes:
        task, method: Which.
        before: Accuracy of the base.
        accuracy: Of what was learned.
        parameters: Numbers trained.
        seconds: Of one training, mean.
        peak_mib: Memory that one training took above the opened base, mean.
    """

    task: str
    method: str
    before: float
    accuracy: Estimate
    parameters: int
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Ratio:
    """One method's accuracy over another's on one task, seed by seed.

    Attributes:
        task, method, against: Which.
        ratio: Of accuracies.
        difference: Of accuracies.
        parameters: Share of the other's numbers.
    """

    task: str
    method: str
    against: str
    ratio: Estimate
    difference: Estimate
    parameters: float

    @property
    def verdict(self) -> str:
        """Who won, where the interval of the difference says so."""
        if not (self.difference.low > 0 or self.difference.high < 0):
            return "not shown"
        return f"{self.method} wins" if self.difference.low > 0 else f"{self.against} wins"


def findings(outcomes: Sequence[Outcome]) -> list[Finding]:
    """Means over seeds, task by task."""
    return [_finding(task, method, some) for (task, method), some in _grouped(outcomes).items()]


def ratios(outcomes: Sequence[Outcome], against: str) -> list[Ratio]:
    """Every other method compared with one, task by task; the same seed drew the same prompts for both."""
    grouped = _grouped(outcomes)
    found = []
    for (task, method), some in grouped.items():
        if method == against:
            continue
        other = {outcome.seed: outcome for outcome in grouped[task, against]}
        pairs = [(outcome, other[outcome.seed]) for outcome in some]
        found.append(
            Ratio(
                task,
                method,
                against,
                # An accuracy of 0 leaves nothing to divide by: as good as one right answer.
                estimate([mine.accuracy / max(theirs.accuracy, 1 / theirs.n) for mine, theirs in pairs]),
                estimate([mine.accuracy - theirs.accuracy for mine, theirs in pairs]),
                some[0].parameters / pairs[0][1].parameters,
            )
        )
    return found


def _grouped(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    tasks, methods = (list(dict.fromkeys(getattr(one, key) for one in outcomes)) for key in ("task", "method"))
    return {
        (task, method): [one for one in outcomes if (one.task, one.method) == (task, method)]
        for task in tasks
        for method in methods
    }


def _finding(task: str, method: str, some: Sequence[Outcome]) -> Finding:
    return Finding(
        task,
        method,
        mean(one.before for one in some),
        estimate([one.accuracy for one in some]),
        some[0].parameters,
        mean(one.seconds for one in some),
        mean(one.peak_mib for one in some),
    )
