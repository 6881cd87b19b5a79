"""Interference, measured: by hand, and the interval of its correlation in simulation."""

from __future__ import annotations

import random
from itertools import combinations
from statistics import mean

import pytest

from zfleet.errors import RewardError, SpecError
from zfleet.evaluate.interference import measure_shortfall, rank_correlation
from zfleet.evaluate.statistics.single import paired

RIGHT, WRONG = 1.0, -1.0


def test_a_shortfall_by_hand() -> None:
    base = [WRONG, WRONG, RIGHT, WRONG, None, RIGHT]
    alone = [RIGHT, RIGHT, RIGHT, WRONG, RIGHT, RIGHT]
    mixed = [RIGHT, WRONG, RIGHT, WRONG, RIGHT, None]
    found = measure_shortfall(base, alone, mixed)
    assert (found.n, found.base, found.alone, found.mixed) == (4, 0.25, 0.75, 0.5)
    assert found.shortfall == paired([True, True, True, False], [True, False, True, False])
    assert found.shortfall.mean == 0.25
    assert found.kept == pytest.approx(0.5)


def test_a_mixture_may_help_and_an_expert_may_have_gained_nothing() -> None:
    helped = measure_shortfall([WRONG] * 4, [WRONG] * 4, [RIGHT] * 4)
    assert helped.shortfall.mean == -1
    assert helped.kept is None


def test_prompts_that_nobody_graded_leave_nothing_to_compare() -> None:
    with pytest.raises(RewardError, match="none of 2 prompts"):
        measure_shortfall([None, RIGHT], [RIGHT, None], [RIGHT, RIGHT])
    with pytest.raises(ValueError, match="shorter"):
        measure_shortfall([RIGHT, RIGHT], [RIGHT], [RIGHT])


PAIRS = list(combinations("abcdef", 2))


def test_a_correlation_of_ranks_by_hand() -> None:
    values = dict(zip(PAIRS, range(len(PAIRS)), strict=True))
    cubes = {pair: value**3.0 for pair, value in values.items()}
    same = rank_correlation(values, cubes)
    assert same.mean == pytest.approx(1)
    assert same.low is not None
    assert 0.99 < same.low <= same.mean
    assert rank_correlation(values, {pair: -value for pair, value in cubes.items()}).mean == pytest.approx(-1)
    few = {pair: value for pair, value in values.items() if not {"e", "f"} & {*pair}}
    assert rank_correlation(few, few).low is None, "four experts have no interval"


def test_what_has_no_ranks_is_refused() -> None:
    values = dict(zip(PAIRS, range(len(PAIRS)), strict=True))
    with pytest.raises(SpecError, match="are equal"):
        rank_correlation(values, dict.fromkeys(PAIRS, 0.5))
    with pytest.raises(SpecError, match="not the same"):
        rank_correlation(values, {("a", "b"): 1.0})


def test_the_interval_covers_what_experts_share() -> None:
    """No correlation, and half of each value's variance belongs to its experts: 0 must be inside nearly always.

    Of 200 draws 190 are expected to cover; fewer than 180 have a chance of one in a thousand if the interval holds.
    """
    rng = random.Random(0)
    experts = range(9)
    pairs = [(str(a), str(b)) for a, b in combinations(experts, 2)]

    def draw() -> dict[tuple[str, str], float]:
        own = {str(expert): rng.gauss(0, 0.5) for expert in experts}
        return {(a, b): own[a] + own[b] + rng.gauss(0, 0.5**0.5) for a, b in pairs}

    found = [rank_correlation(draw(), draw()) for _ in range(200)]
    covered = [one.low is not None and one.high is not None and one.low <= 0 <= one.high for one in found]
    assert sum(covered) >= 180
    assert mean(one.high - one.low for one in found if one.low is not None and one.high is not None) < 1.2
