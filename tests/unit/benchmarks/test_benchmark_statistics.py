"""The benchmark's intervals hold what they say, and ratios divide what ran side by side."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero.configurations import RATIOS, ROUND, chosen, round_order
from hetero.statistics import coverage, estimate, nearest_pair, quantile
from zfleet.errors import SpecError

_FINITE = st.floats(-1e6, 1e6)


def test_twelve_pairs_give_the_third_least_and_the_third_greatest() -> None:
    samples = random.Random(0).sample([float(value) for value in range(12)], 12)
    found = estimate(samples)
    assert (found.low, found.median, found.high, found.samples) == (2.0, 5.5, 9.0, 12)
    assert found.coverage == 1 - 2 * (1 + 12 + 66) / 4096


@pytest.mark.parametrize("n", range(1, 9))
def test_coverage_is_the_share_of_all_ways_to_fall_around_the_median(n: int) -> None:
    for k in range(1, n // 2 + 1):
        below = [sum(sides) for sides in itertools.product((0, 1), repeat=n)]
        assert coverage(n, k) == sum(k <= count <= n - k for count in below) / 2**n


@pytest.mark.parametrize("n", [6, 12, 25])
def test_a_narrower_interval_would_not_hold_95_percent(n: int) -> None:
    found = estimate([float(value) for value in range(n)])
    assert found.coverage >= 0.95 > coverage(n, int(found.low) + 2)


@pytest.mark.parametrize("draw", [lambda r: r.expovariate(1), lambda r: r.gauss(math.log(2), 3)])
def test_intervals_hold_the_true_median_as_often_as_they_say(draw: object) -> None:
    chance, runs, median = random.Random(1), 4000, math.log(2)
    found = [estimate([draw(chance) for _ in range(12)]) for _ in range(runs)]  # type: ignore[operator]
    held = sum(one.low <= median <= one.high for one in found) / runs
    spread = math.sqrt(found[0].coverage * (1 - found[0].coverage) / runs)
    assert abs(held - found[0].coverage) < 4 * spread


@given(st.lists(_FINITE, min_size=1, max_size=40), st.floats(0.01, 100))
def test_estimates_lie_among_the_samples_and_scale_with_them(samples: list[float], factor: float) -> None:
    found, scaled = estimate(samples), estimate([factor * value for value in samples])
    assert {found.low, found.high} <= set(samples)
    assert found.low <= found.median <= found.high
    assert (scaled.low, scaled.high) == (factor * found.low, factor * found.high)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_too_few_samples_say_so(n: int) -> None:
    found = estimate([float(value) for value in range(n)])
    assert (found.low, found.high) == (0, n - 1)
    assert found.coverage < 0.95


def test_an_interval_reaches_a_bar_it_touches() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert found.reaches(3.0)
    assert not found.reaches(math.nextafter(3.0, 4.0))


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="one sample"):
        estimate([])
    with pytest.raises(ValueError, match="one value"):
        quantile([], 0.5)


def test_a_ratio_divides_neighbours() -> None:
    order = ("base", "exact", "lora", "base", "mlp")
    assert nearest_pair(order, "mlp", "base") == (4, 3)
    assert nearest_pair(order, "exact", "base") == (1, 0)
    assert nearest_pair(order, "lora", "base") == (2, 3)
    assert nearest_pair(order, "lora", "peft") is None


@given(st.lists(_FINITE, min_size=1), st.floats(0, 1, exclude_min=True))
def test_a_quantile_is_the_least_value_that_holds_its_share(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_quantiles_of_a_hundred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (quantile(values, 0.95), quantile(values, 1.0)) == (95, 100)
    assert quantile(values, 0.5) == statistics.median_low(values)


@pytest.mark.parametrize("also", [(), ("compiled",), ("peft", "merge")])
def test_every_round_runs_every_configuration_and_every_ratio_has_its_pair(also: tuple[str, ...]) -> None:
    keys = chosen(also)
    for number in range(2 * len(ROUND)):
        order = round_order(number, keys)
        assert set(order) == set(keys)
        for ratio in RATIOS.values():
            if ratio.above in keys and ratio.below in keys:
                assert nearest_pair(order, ratio.above, ratio.below) is not None


def test_a_part_of_the_configurations_runs_in_the_order_of_the_report() -> None:
    assert chosen((), ("rank64", "base")) == ("base", "rank64")
    assert set(round_order(0, ("base", "rank64"))) == {"base", "rank64"}
    for only in (("rank64",), ("base", "rank46")):
        with pytest.raises(SpecError, match="--only"):
            chosen((), only)


def test_what_is_close_to_its_bar_runs_side_by_side_and_goes_first_as_often_as_last() -> None:
    keys = chosen(())
    first = dict.fromkeys(("exact64_over_exact1", "n1000_over_n5", "base_on_over_off"), 0)
    for number, name in itertools.product(range(12), first):
        pair = nearest_pair(round_order(number, keys), RATIOS[name].above, RATIOS[name].below)
        assert pair is not None
        assert abs(pair[0] - pair[1]) == 1
        first[name] += pair[0] < pair[1]
    assert set(first.values()) == {6}
