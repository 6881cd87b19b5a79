"""What a way measured on one task: a row of values for each replicate, and how two ways are compared.

A replicate is what chance would do otherwise: a draw of shots, or if there is one draw alone, a seed. Seeds of one draw
see the same shots, so that their mean is one replicate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zfleet.errors import JobError
from zfleet.evaluate.cells import Cell, Numbers
from zfleet.evaluate.statistics import crossed, single
from zfleet.evaluate.statistics.comparisons import Interval
from zfleet.evaluate.statistics.estimate import CONFIDENCE, Estimate

Value = Callable[[Numbers], Numbers]
"""What is averaged, of rewards."""


def right(rewards: Numbers) -> Numbers:
    """Return 1 for a right answer, 0 for a wrong one, NaN for one that was not graded."""
    return np.where(np.isnan(rewards), np.nan, (rewards > 0).astype(np.float64))


@dataclass(frozen=True, eq=False)
class Replicates:
    """The values of a way on one task.

    Attributes:
        keys: Names each replicate, so that those of two ways with the same shots are compared with each other.
        rows: Digests of the prompts that every replicate graded.
        values: [replicates, prompts].
        clusters: Of each prompt; None if prompts are independent.
    """

    keys: tuple[tuple[int | None, int | None], ...]
    rows: tuple[str, ...]
    values: Numbers
    clusters: tuple[str, ...] | None

    def on(self, rows: Sequence[str]) -> Replicates:
        """Select some of the rows, in this order."""
        places = {row: place for place, row in enumerate(self.rows)}
        chosen = [places[row] for row in rows]
        clusters = None if self.clusters is None else tuple(self.clusters[place] for place in chosen)
        return Replicates(self.keys, tuple(rows), self.values[:, chosen], clusters)

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """Average values between 0 and 1, with an interval over replicates and prompts, or over prompts alone."""
        if len(self.values) > 1:
            return crossed.accuracy(self.values, self.clusters, confidence)
        return single.proportion((self.values[0] > 0).tolist(), self.clusters, confidence)

    def mean(self, confidence: float = CONFIDENCE) -> Estimate:
        """Average values of any size; as ``estimate``."""
        if len(self.values) > 1:
            return crossed.average(self.values, self.clusters, confidence)
        return single.mean_of(self.values[0], self.clusters, confidence)


def replicates(cells: Sequence[Cell], value: Value = right) -> Replicates:
    """Arrange the cells of one way on one task.

    Raises:
        JobError: No prompt was graded in all of them.
    """
    several_draws = len({cell.key.draw for cell in cells}) > 1
    grouped: dict[tuple[int | None, int | None], list[Cell]] = defaultdict(list)
    for cell in cells:
        grouped[cell.key.draw, None if several_draws else cell.key.seed].append(cell)
    columns = [dict(zip(cell.rows, value(cell.rewards), strict=True)) for cell in cells]
    rows = [row for row in cells[0].rows if all(not np.isnan(column.get(row, np.nan)) for column in columns)]
    if not rows:
        raise JobError(
            f"no prompt was graded in every cell of {cells[0].key.way} on {cells[0].key.task}",
            "mend the task's reward: it gives no grade to any of the answers",
        )
    of_cell = {id(cell): [column[row] for row in rows] for cell, column in zip(cells, columns, strict=True)}
    values = [np.mean([of_cell[id(cell)] for cell in group], axis=0) for group in grouped.values()]
    clusters = None
    if cells[0].clusters is not None:
        of_row = dict(zip(cells[0].rows, cells[0].clusters, strict=True))
        clusters = tuple(of_row[row] for row in rows)
    return Replicates(tuple(grouped), tuple(rows), np.array(values), clusters)


def difference(first: Replicates, second: Replicates) -> tuple[Interval, int] | None:
    """Subtract the second way's values from the first's, paired by prompt, and by replicate if both have them.

    Returns:
        The interval, and how many prompts both graded; None if there is none.
    """
    known = set(second.rows)
    rows = [row for row in first.rows if row in known]
    if not rows:
        return None
    mine, theirs = first.on(rows), second.on(rows)
    if mine.keys == theirs.keys:
        pairs = mine.values, theirs.values
    elif len(mine.values) == 1:
        pairs = np.broadcast_to(mine.values, theirs.values.shape), theirs.values
    else:
        pairs = mine.values, np.broadcast_to(theirs.values.mean(axis=0), mine.values.shape)
    return _interval(*pairs, mine.clusters), len(rows)


def _interval(first: Numbers, second: Numbers, clusters: Sequence[str] | None) -> Interval:
    changes = first - second
    if len(changes) > 1:
        return lambda confidence: crossed.difference(changes, clusters, confidence)
    return lambda confidence: single.changed(changes[0], clusters, confidence)


@dataclass(frozen=True)
class Flip:
    """A prompt that two ways answer differently.

    Attributes:
        row: Digest of the prompt and its answer.
        first, second: How often each is right on it, over its replicates: from 0 to 1.
    """

    row: str
    first: float
    second: float

    @property
    def gained(self) -> bool:
        """Whether the first is right more often."""
        return self.first > self.second


def flips(first: Replicates, second: Replicates) -> list[Flip]:
    """List the prompts on which two ways differ, the largest differences first, gains before losses."""
    others = dict(zip(second.rows, second.values.mean(axis=0).tolist(), strict=True))
    mine = zip(first.rows, first.values.mean(axis=0).tolist(), strict=True)
    found = [Flip(row, value, others[row]) for row, value in mine if row in others and value != others[row]]
    return sorted(found, key=lambda flip: (-abs(flip.first - flip.second), not flip.gained))
