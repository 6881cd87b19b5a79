"""Which samples are worth a look: the best, the worst, and the prompts whose answers changed most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from zfleet_jobs.samples.read import Keys

_ROUNDING = 1e-9
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spread:
    """The rewards of one training.

    Attributes:
        training: Its place among the trainings.
        steps: How many there are.
        first: The first step there is.
        last: The last one.
        samples: How many were graded.
        ungraded: How many were not: their reward failed, could not tell, or said that they are not its task's.
        least: The lowest reward.
        mean: Their mean.
        most: The highest.
    """

    training: int
    steps: int
    first: int
    last: int
    samples: int
    ungraded: int
    least: float
    mean: float
    most: float


@dataclass(frozen=True)
class Change:
    """A prompt that was asked at two steps or more, and whose mean reward is not what it was.

    ``early`` is the first half of the steps that asked it, ``late`` as many of the last; one in the middle is neither.

    Attributes:
        early: Mean reward of all its samples then.
        late: The same.
        early_place: The row of ``Keys`` whose reward is nearest to ``early``, of those the first.
        late_place: The same, of those the last step's.
    """

    early: float
    late: float
    early_place: int
    late_place: int


def spreads(keys: Keys) -> list[Spread]:
    """Summarise the rewards of every training of which a sample was graded."""
    columns = [("step", "count_distinct"), ("step", "min"), ("step", "max"), ("step", "count"), ("reward", "count")]
    columns += [("reward", how) for how in ("min", "mean", "max")]
    totals = keys.table.group_by("training").aggregate(columns).sort_by("training")
    names = ["training", *("_".join(column) for column in columns)]
    return [
        Spread(training, steps, first, last, graded, every - graded, *rewards)
        for training, steps, first, last, every, graded, *rewards in zip(
            *(totals[name].to_pylist() for name in names), strict=True
        )
        if graded
    ]


def extremes(keys: Keys, count: int, best: bool) -> list[int]:
    """Choose the rows with the highest rewards, or the lowest.

    Equal ones: the larger advantage first, up or down, then the later step. Left out are trainings whose rewards are
    all one number: there is nothing to choose by.
    """
    several = [spread.training for spread in spreads(keys) if spread.least < spread.most]
    places = pa.array(np.arange(len(keys.table), dtype=np.int64))
    table = keys.table.select(["training", "reward", "step"]).append_column("place", places)
    table = table.append_column("size", pc.abs(keys.table["advantage"]))
    table = table.filter(pc.is_in(table["training"], pa.array(several, pa.int32())))
    order = [("reward", "descending" if best else "ascending"), ("size", "descending"), ("step", "descending")]
    # pyarrow fails if there are no rows to choose from.
    if not count or not len(table):
        return []
    chosen = pc.select_k_unstable(table, min(count, len(table)), [*order, ("place", "ascending")])
    return list(table["place"].take(chosen).to_pylist())


def changes(keys: Keys, count: int) -> list[Change]:
    """Choose the prompts whose mean reward changed most, up or down; of equal ones the one asked later first."""
    asked = keys.table.group_by(["prompt", "step"]).aggregate([("reward", "sum"), ("reward", "count")])
    asked = asked.sort_by([("prompt", "ascending"), ("step", "ascending")])
    prompt, step = asked["prompt"].to_numpy(), asked["step"].to_numpy()
    starts = np.flatnonzero(np.diff(prompt, prepend=-1))
    steps = np.diff(starts, append=len(prompt))
    rank = np.arange(len(prompt)) - np.repeat(starts, steps)
    half = np.repeat(steps // 2, steps)
    means = []
    for within in (rank < half, rank >= np.repeat(steps, steps) - half):
        sums, counts = (np.where(within, asked[name].to_numpy(), 0) for name in ("reward_sum", "reward_count"))
        means.append(np.add.reduceat(sums, starts) / np.maximum(np.add.reduceat(counts, starts), 1))
    early, late = means
    moved = np.flatnonzero(np.abs(late - early) > _ROUNDING)
    last = step[starts + steps - 1]
    order = np.lexsort((prompt[starts][moved], -last[moved], -np.abs(late - early)[moved]))
    of_row, step_of_row = keys.table["prompt"].to_numpy(), keys.table["step"].to_numpy()
    chosen = []
    for place in moved[order[:count]]:
        start, length = starts[place], steps[place]
        rows = np.flatnonzero(of_row == prompt[start])
        first = rows[step_of_row[rows] <= step[start + length // 2 - 1]]
        final = rows[step_of_row[rows] >= step[start + length - length // 2]]
        chosen.append(
            Change(
                float(early[place]),
                float(late[place]),
                _nearest(keys, first, early[place]),
                _nearest(keys, final, late[place], latest=True),
            )
        )
    return chosen


def _nearest(keys: Keys, rows: Rows, mean: float, latest: bool = False) -> int:
    """Choose the row whose reward is nearest to a mean; of equal ones the first step's, or the last step's."""
    step, reward = (keys.table[name].take(pa.array(rows)).to_numpy() for name in ("step", "reward"))
    return int(rows[np.lexsort((rows, -step if latest else step, np.abs(reward - mean)))[0]])
