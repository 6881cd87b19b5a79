"""How often do the intervals of evaluations hold the true value? Nominal are 95 %; 93 to 97 % is asked for.

    python benchmarks/interval_coverage.py            three minutes on one core
    python benchmarks/interval_coverage.py --json > result.json

Each case draws measurements whose true value is known: answers that are right or wrong, to the same prompts, once or
with several seeds, independent or in passages, near 0, in the middle and near 1. A true accuracy is drawn anew from the
case's range each time, because counts are whole numbers: at one fixed accuracy the coverage of any interval jumps with
the number of prompts (Brown, Cai and DasGupta, Statistical Science 16, 2001). Beside the coverage stands that of the
interval that people write down without thinking: normal, and blind to passages and seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from zfleet.evaluate.statistics.crossed import accuracy, difference
from zfleet.evaluate.statistics.estimate import Estimate
from zfleet.evaluate.statistics.proportions import Z95
from zfleet.evaluate.statistics.single import mean_of, paired, proportion

LEAST, MOST = 0.93, 0.97
NEAR_0, MIDDLE, NEAR_1 = (0.01, 0.06), (0.3, 0.7), (0.94, 0.99)

Range = tuple[float, float]
Values = NDArray[np.float64]
Bits = NDArray[np.bool_]
Draw = Callable[[np.random.Generator], tuple[Estimate, Estimate, float]]
"""Draws one measurement: its interval, the plain normal one, and the true value."""


@dataclass(frozen=True)
class Coverage:
    """How often an interval held the true value.

    Attributes:
        case: What was measured.
        coverage: Of zfleet's interval.
        error: Standard error of the coverage: it is itself measured, by so many draws.
        plain: Coverage of the plain normal interval.
        width: Mean width of zfleet's interval.
    """

    case: str
    coverage: float
    error: float
    plain: float
    width: float

    @property
    def holds(self) -> bool:
        """Whether the coverage is between 93 and 97 %."""
        return LEAST <= self.coverage <= MOST


def measure(case: str, draw: Draw, draws: int) -> Coverage:
    """Draw measurements, and count how many intervals hold the true value. Deterministic for each case."""
    rng = np.random.default_rng([len(case), *case.encode()])
    held, plain_held, widths = 0, 0, 0.0
    for _ in range(draws):
        found, plain, truth = draw(rng)
        held += _holds(found, truth)
        plain_held += _holds(plain, truth)
        widths += _width(found)
    share = held / draws
    return Coverage(case, share, math.sqrt(share * (1 - share) / draws), plain_held / draws, widths / draws)


def one_accuracy(rng: np.random.Generator, n: int, accuracies: Range) -> tuple[Estimate, Estimate, float]:
    """Draw independent answers to n prompts."""
    truth = rng.uniform(*accuracies)
    right = rng.random(n) < truth
    return proportion(right.tolist()), _plain(right.astype(float)), truth


def one_difference(
    rng: np.random.Generator, n: int, accuracies: Range, shared: float
) -> tuple[Estimate, Estimate, float]:
    """Draw independent answers of two ways to n prompts, a share of which are as hard for one as for the other."""
    truths = rng.uniform(*accuracies, size=2)
    first, second = _two(rng, np.full(n, truths[0]), np.full(n, truths[1]), shared)
    return paired(first.tolist(), second.tolist()), _plain(first.astype(np.float64) - second), truths[0] - truths[1]


def passages_accuracy(
    rng: np.random.Generator, passages: int, sizes: tuple[int, int], alike: float, accuracies: Range
) -> tuple[Estimate, Estimate, float]:
    """Draw answers to questions that share passages, some of which are harder than others."""
    truth = rng.uniform(*accuracies)
    places = _places(rng, passages, sizes)
    right = rng.random(len(places)) < _of_passages(rng, truth, alike, passages)[places]
    return proportion(right.tolist(), places.tolist()), _plain(right.astype(float)), truth


def passages_difference(
    rng: np.random.Generator, passages: int, sizes: tuple[int, int], alike: float, accuracies: Range
) -> tuple[Estimate, Estimate, float]:
    """Draw answers of two ways to questions that share passages; each way finds other passages hard."""
    truths = rng.uniform(*accuracies, size=2)
    places = _places(rng, passages, sizes)
    chances = [_of_passages(rng, truth, alike, passages)[places] for truth in truths]
    first, second = _two(rng, chances[0], chances[1], 0.5)
    found = paired(first.tolist(), second.tolist(), places.tolist())
    return found, _plain(first.astype(np.float64) - second), truths[0] - truths[1]


def mean_reward(rng: np.random.Generator, n: int) -> tuple[Estimate, Estimate, float]:
    """Draw skewed rewards of n prompts: exponential ones."""
    rewards: Values = rng.exponential(1.0, n)
    return mean_of(rewards), _plain(rewards), 1.0


def seeds_accuracy(
    rng: np.random.Generator, seeds: int, n: int, spread: float, alike: float, accuracies: Range
) -> tuple[Estimate, Estimate, float]:
    """Draw answers of several seeds to the same n prompts."""
    right, truth = _seeds(rng, seeds, n, spread, alike, accuracies)
    return accuracy(right), _plain(right.ravel()), truth


def seeds_difference(
    rng: np.random.Generator, seeds: int, n: int, spread: float, alike: float, accuracies: Range
) -> tuple[Estimate, Estimate, float]:
    """Draw answers of several seeds to n prompts, and the answers of a base, which has no seeds."""
    right, truth = _seeds(rng, seeds, n, spread, alike, accuracies)
    base = rng.uniform(*accuracies)
    differences = right - (rng.random(n) < base)
    return difference(differences), _plain(differences.ravel()), truth - base


def seeds_passages_difference(
    rng: np.random.Generator, seeds: int, passages: int, sizes: tuple[int, int], alike: float, accuracies: Range
) -> tuple[Estimate, Estimate, float]:
    """Draw answers of several seeds, and of a base, to questions that share passages."""
    truths = rng.uniform(*accuracies, size=2)
    places = _places(rng, passages, sizes)
    chances = [_of_passages(rng, truth, alike, passages)[places] for truth in truths]
    right = rng.random((seeds, len(places))) < chances[0]
    differences = right.astype(np.float64) - (rng.random(len(places)) < chances[1])
    return difference(differences, places.tolist()), _plain(differences.ravel()), truths[0] - truths[1]


CASES: dict[str, Draw] = {
    **{
        f"accuracy {name}, {n} prompts": partial(one_accuracy, n=n, accuracies=around)
        for name, around in (("near 0", NEAR_0), ("in the middle", MIDDLE), ("near 1", NEAR_1))
        for n in (50, 100, 500)
    },
    **{
        f"difference {name}, {n} prompts": partial(one_difference, n=n, accuracies=around, shared=shared)
        for name, around, shared in (
            ("near 0", NEAR_0, 0.2),
            ("in the middle", MIDDLE, 0.2),
            ("of ways that mostly agree", MIDDLE, 0.8),
            ("near 1", NEAR_1, 0.2),
        )
        for n in (100, 500)
    },
    **{
        f"accuracy {name}, {passages} passages of {sizes[0]} to {sizes[1]}": partial(
            passages_accuracy, passages=passages, sizes=sizes, alike=alike, accuracies=around
        )
        for name, around, alike in (("in the middle", MIDDLE, 0.3), ("near 1", (0.9, 0.98), 0.1))
        for passages, sizes in ((50, (4, 8)), (100, (2, 6)))
    },
    **{
        f"difference {name}, {passages} passages of {sizes[0]} to {sizes[1]}": partial(
            passages_difference, passages=passages, sizes=sizes, alike=alike, accuracies=around
        )
        for name, around, alike, passages, sizes in (
            ("in the middle", MIDDLE, 0.2, 10, (5, 15)),
            ("in the middle", MIDDLE, 0.3, 20, (3, 10)),
            ("in the middle", MIDDLE, 0.2, 30, (1, 30)),
            ("near 0", (0.02, 0.08), 0.1, 50, (4, 8)),
            ("near 1", (0.92, 0.98), 0.1, 50, (4, 8)),
        )
    },
    **{f"mean of skewed rewards, {n} prompts": partial(mean_reward, n=n) for n in (100, 500)},
    **{
        f"{what} of {seeds} seeds {name}, 200 prompts": partial(
            draw, seeds=seeds, n=200, spread=spread, alike=alike, accuracies=around
        )
        for what, draw in (("accuracy", seeds_accuracy), ("difference", seeds_difference))
        for seeds in (3, 5)
        for name, spread, alike, around in (
            ("that agree", 0.0, 0.6, MIDDLE),
            ("that differ a little", 0.1, 0.8, MIDDLE),
            ("that differ", 0.3, 0.8, MIDDLE),
            ("near 1", 0.1, 0.8, (0.92, 0.98)),
        )
    },
    "difference of 3 seeds, 40 passages of 2 to 6": partial(
        seeds_passages_difference, seeds=3, passages=40, sizes=(2, 6), alike=0.2, accuracies=MIDDLE
    ),
}
"""{what is measured: how one measurement is drawn}."""


def _seeds(
    rng: np.random.Generator, seeds: int, n: int, spread: float, alike: float, accuracies: Range
) -> tuple[Values, float]:
    """Draw answers [seeds, n] that are right where a sum of normal effects is above a threshold.

    Args:
        spread: Standard deviation of the seeds' effect; those of prompts and answers have a variance of 1 together.
        alike: Share of that variance which is the prompts'.
    """
    truth = rng.uniform(*accuracies)
    total = math.sqrt(1 + spread**2)
    effects = spread * rng.normal(size=(seeds, 1)) + math.sqrt(alike) * rng.normal(size=n)
    scores = effects + math.sqrt(1 - alike) * rng.normal(size=(seeds, n))
    return (scores < total * NormalDist().inv_cdf(truth)).astype(float), truth


def _two(rng: np.random.Generator, first: Values, second: Values, shared: float) -> tuple[Bits, Bits]:
    """Draw right and wrong for two ways; on a share of the prompts both have the same luck."""
    luck, other = rng.random(len(first)), rng.random(len(first))
    same = rng.random(len(first)) < shared
    return luck < first, np.where(same, luck, other) < second


def _places(rng: np.random.Generator, passages: int, sizes: tuple[int, int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(passages), rng.integers(sizes[0], sizes[1] + 1, passages))


def _of_passages(rng: np.random.Generator, truth: float, alike: float, passages: int) -> Values:
    """Draw the chance of a right answer in each passage: beta, with this correlation within passages."""
    weight = (1 - alike) / alike
    return rng.beta(truth * weight, (1 - truth) * weight, passages)


def _plain(values: Values) -> Estimate:
    mean, reach = float(values.mean()), Z95 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - reach, mean + reach)


def _holds(estimate: Estimate, truth: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return bool(estimate.low <= truth <= estimate.high)


def _width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where a coverage is outside."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=20_000, help="of each case")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    found = [measure(case, draw, options.draws) for case, draw in CASES.items()]
    if options.json:
        json.dump([asdict(one) | {"holds": one.holds} for one in found], sys.stdout, indent=2)
        print()
    else:
        _print(found)
    return 0 if all(one.holds for one in found) else 1


def _print(found: Sequence[Coverage]) -> None:
    table = Table(title="coverage of intervals, nominal 95 %", title_justify="left")
    for name in ("case", "coverage", "plain normal", "mean width"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for one in found:
        mark = "" if one.holds else " (outside)"
        coverage = f"{one.coverage:.1%} ± {one.error:.1%}{mark}"
        table.add_row(one.case, coverage, f"{one.plain:.1%}", f"{one.width:.3f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
