"""What the rewards of a transfer say: accuracies, and differences paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zfleet.errors import RewardError
from zfleet.evaluate.statistics.estimate import Estimate
from zfleet.evaluate.statistics.proportions import wilson
from zfleet.evaluate.statistics.single import paired
from zfleet_jobs.transfer.answers import Rewards

BASE, ORDERED, SHUFFLED, SEARCHED = "base", "ordered", "shuffled", "searched"

Way = tuple[str, str]
"""How a z came to the base, and the expert: (``ordered``, ``math/1``); of the base and the search no expert."""


@dataclass(frozen=True)
class Finding:
    """One z on the base, on prompts that every other one of the transfer was graded on too.

    Attributes:
        way: ``base``, ``ordered``, ``shuffled`` or ``searched``.
        expert: Whose z; empty for the base and the search.
        n: The prompts.
        accuracy: Fraction answered right, with Wilson's interval.
        over_base: Accuracy minus the base's, paired; None for the base.
        over_shuffled: Accuracy minus that of the same z shuffled, paired; None unless ``ordered``.
    """

    way: str
    expert: str
    n: int
    accuracy: Estimate
    over_base: Estimate | None
    over_shuffled: Estimate | None


def findings(rewards: Mapping[Way, Rewards]) -> list[Finding]:
    """Compare every z with the base, and the order with the shuffle.

    Args:
        rewards: Of the same prompts in the same order; the base among them, and the shuffle of each ordered z.

    Raises:
        RewardError: No prompt was graded under all of them.
    """
    graded = [row for row in zip(*rewards.values(), strict=True) if None not in row]
    if not graded:
        raise RewardError(
            f"no prompt was graded under all {len(rewards)} z",
            "mend the reward function, which gave no grade",
        )
    columns = zip(*graded, strict=True)
    right = {
        way: [reward is not None and reward > 0 for reward in column]
        for way, column in zip(rewards, columns, strict=True)
    }
    return [_finding(way, right) for way in rewards]


def _finding(way: Way, right: Mapping[Way, list[bool]]) -> Finding:
    kind, expert = way
    mine = right[way]
    accuracy = sum(mine) / len(mine)
    return Finding(
        kind,
        expert,
        len(mine),
        Estimate(accuracy, *wilson(accuracy, len(mine))),
        None if kind == BASE else paired(mine, right[BASE, ""]),
        paired(mine, right[SHUFFLED, expert]) if kind == ORDERED else None,
    )
