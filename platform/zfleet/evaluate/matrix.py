"""The matrix: every way of adapting on every task, compared with the base, with a named way and with an oracle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

import numpy as np

from zfleet.config.evaluate import BASE, ORACLE
from zfleet.evaluate.cells import Cell, WayKind
from zfleet.evaluate.replicates import Replicates, difference, replicates
from zfleet.evaluate.statistics.comparisons import detectable, holm, p_value
from zfleet.evaluate.statistics.estimate import CONFIDENCE, Estimate

Group = tuple[str, str, int | None]
"""Task, way and number of shots."""

SIGNIFICANT = 1 - CONFIDENCE


@dataclass(frozen=True)
class Comparison:
    """A way's accuracy less another's on the same prompts.

    Attributes:
        against: The other way.
        n: Prompts that both graded.
        difference: With its interval.
        p: Its p-value, as if it were the only comparison.
        corrected: Corrected for all comparisons with the same other way (Holm).
        detectable: The least true difference that these prompts could show at 80 % power; None without an interval.
    """

    against: str
    n: int
    difference: Estimate
    p: float
    corrected: float
    detectable: float | None

    @property
    def verdict(self) -> str:
        """What is shown, after the correction."""
        if self.corrected >= SIGNIFICANT:
            return "not shown"
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True)
class Cost:
    """What an answer costs, on average.

    Attributes:
        seconds: Of both passes: shares of the engine's time, by tokens.
        tokens: Generated.
        prompt_tokens: Read, in both passes.
        first_share: The first pass's share of the seconds.
    """

    seconds: float
    tokens: float
    prompt_tokens: float
    first_share: float


@dataclass(frozen=True)
class Entry:
    """One way on one task, over its draws and seeds.

    Attributes:
        task, way, kind: Which.
        shots: How many the way saw; None if it sees none.
        n: Prompts that were graded in every replicate.
        replicates: Draws of shots, or seeds; 1 if nothing is random: then intervals are over prompts alone.
        accuracy: The share of right answers.
        reward: The mean reward.
        over_base: Compared with the base; None for the base.
        over_named: Compared with the way that the spec names; None for that way, or if it names none.
        regret: What the oracle has more; None for the oracle, or without one.
        off_task: For an expert, the difference to the base on tasks other than its own: damage if it is negative.
        cost: Of an answer; None if that is not known.
    """

    task: str
    way: str
    kind: WayKind
    shots: int | None
    n: int
    replicates: int
    accuracy: Estimate
    reward: Estimate
    over_base: Comparison | None
    over_named: Comparison | None
    regret: Estimate | None
    off_task: Estimate | None
    cost: Cost | None


@dataclass(frozen=True)
class Matrix:
    """All entries of an evaluation.

    Attributes:
        entries: By task, then by way, in the order of the spec.
        against: The way that all are compared with, beside the base; None if there is none.
    """

    entries: tuple[Entry, ...]
    against: str | None

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order."""
        return list(dict.fromkeys(entry.task for entry in self.entries))

    def of_task(self, task: str) -> list[Entry]:
        """The entries of one task, of each way the one with the most shots."""
        own = [entry for entry in self.entries if entry.task == task]
        most = {way: max(one.shots or 0 for one in own if one.way == way) for way in {entry.way for entry in own}}
        return [entry for entry in own if (entry.shots or 0) == most[entry.way]]

    def detectable(self, task: str) -> float | None:
        """The least difference to the base that a task's prompts could show at 80 % power, for the median way."""
        compared = [entry.over_base for entry in self.of_task(task) if entry.over_base is not None]
        found = [one.detectable for one in compared if one.detectable is not None]
        return median(found) if found else None


def matrix_of(cells: Iterable[Cell], against: str | None = None) -> Matrix:
    """Compute the matrix from the answers.

    Args:
        cells: All of an evaluation, in the order of its ways.
        against: A way that all others are compared with, beside the base.

    Raises:
        JobError: A way has no graded prompt on a task.
    """
    groups: dict[Group, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.key.task, cell.key.way, cell.key.shots), []).append(cell)
    measured = {group: replicates(some) for group, some in groups.items()}
    over_base = _comparisons(measured, BASE)
    over_named = {} if against is None else _comparisons(measured, against)
    entries = [
        _entry(group, some, measured, over_base.get(group), over_named.get(group)) for group, some in groups.items()
    ]
    tasks = list(dict.fromkeys(entry.task for entry in entries))
    damage = _off_task(groups, over_base)
    entries = [replace(entry, off_task=damage.get(entry.way)) for entry in entries]
    return Matrix(tuple(sorted(entries, key=lambda entry: tasks.index(entry.task))), against)


def comparison(first: Replicates, second: Replicates, against: str) -> Comparison | None:
    """Compare two ways on one task, as if this were the only comparison; None if no prompt was graded by both."""
    found = difference(first, second)
    if found is None:
        return None
    interval, n = found
    p = p_value(interval)
    return Comparison(against, n, interval(CONFIDENCE), p, p, detectable(interval))


def _comparisons(measured: Mapping[Group, Replicates], against: str) -> dict[Group, Comparison]:
    """Compare every way with one, and correct for the number of all comparisons. The oracle is a bound, and no way."""
    found: dict[Group, Comparison] = {}
    for (task, way, shots), own in measured.items():
        other = _found(measured, task, against, shots)
        if way in (against, ORACLE) or other is None:
            continue
        if (compared := comparison(own, other, against)) is not None:
            found[task, way, shots] = compared
    corrected = holm([one.p for one in found.values()])
    return {group: replace(one, corrected=p) for (group, one), p in zip(found.items(), corrected, strict=True)}


def _found(measured: Mapping[Group, Replicates], task: str, way: str, shots: int | None) -> Replicates | None:
    """Find a way on a task: with the same number of shots, or else with the most that it saw."""
    numbers = [number for name, other, number in measured if (name, other) == (task, way)]
    if not numbers:
        return None
    return measured[task, way, shots if shots in numbers else max(numbers, key=lambda number: number or 0)]


def _entry(
    group: Group,
    cells: Sequence[Cell],
    measured: Mapping[Group, Replicates],
    over_base: Comparison | None,
    over_named: Comparison | None,
) -> Entry:
    task, way, shots = group
    own, oracle = measured[group], _found(measured, task, ORACLE, None)
    regret = None if oracle is None or way == ORACLE else difference(oracle, own)
    return Entry(
        task=task,
        way=way,
        kind=cells[0].kind,
        shots=shots,
        n=len(own.rows),
        replicates=len(own.values),
        accuracy=own.estimate(),
        reward=replicates(cells, lambda rewards: rewards).mean(),
        over_base=over_base,
        over_named=over_named,
        regret=None if regret is None else regret[0](CONFIDENCE),
        off_task=None,
        cost=_cost(cells),
    )


def _cost(cells: Sequence[Cell]) -> Cost | None:
    second, first, tokens, read, first_read = (
        float(np.concatenate([getattr(cell, name) for cell in cells]).mean())
        for name in ("seconds", "first_seconds", "tokens", "prompt_tokens", "first_tokens")
    )
    total = second + first
    if math.isnan(total):
        return None
    return Cost(total, tokens, read + first_read, first / total if total else 0.0)


def _off_task(groups: Mapping[Group, Sequence[Cell]], over_base: Mapping[Group, Comparison]) -> dict[str, Estimate]:
    """For each expert average the differences to the base on the tasks that it was not trained on.

    Every task counts as much; half-widths are combined as the sides of a right angle, as the tasks have prompts of
    their own.
    """
    found: dict[str, list[Estimate]] = {}
    for (task, way, shots), cells in groups.items():
        if cells[0].own_task is False and (compared := over_base.get((task, way, shots))) is not None:
            found.setdefault(way, []).append(compared.difference)
    return {way: _average(differences) for way, differences in found.items()}


def _average(estimates: Sequence[Estimate]) -> Estimate:
    centre = mean(one.mean for one in estimates)
    below = [one.mean - one.low for one in estimates if one.low is not None]
    above = [one.high - one.mean for one in estimates if one.high is not None]
    if len(below) < len(estimates):
        return Estimate(centre, None, None)
    return Estimate(centre, centre - math.hypot(*below) / len(estimates), centre + math.hypot(*above) / len(estimates))
