"""The formulas of the intervals, each by hand or against its textbook form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from zfleet.evaluate.statistics.clustered import independent_share, spread_of_mean
from zfleet.evaluate.statistics.comparisons import detectable, holm, p_value
from zfleet.evaluate.statistics.crossed import accuracy, average, difference, ratio
from zfleet.evaluate.statistics.estimate import Estimate, t_quantile
from zfleet.evaluate.statistics.proportions import Z95, wilson
from zfleet.evaluate.statistics.single import changed, mean_of, paired, proportion

VALUES = st.lists(st.floats(-100, 100), min_size=3, max_size=30).filter(lambda values: np.ptp(values) > 1e-3)


def test_the_normal_quantile_is_the_limit_of_students() -> None:
    assert t_quantile(math.inf) == pytest.approx(Z95, abs=1e-12)
    assert t_quantile(2) == pytest.approx(4.302652729911275, abs=1e-8)
    assert t_quantile(7, 0.6) == pytest.approx(stats.t.ppf(0.8, 7))


@given(VALUES)
def test_clusters_of_one_are_no_clusters(values: list[float]) -> None:
    """Then the variance is s^2 / n, and the degrees of freedom are about n - 1."""
    found = spread_of_mean(values)
    assert found is not None
    assert found.variance == pytest.approx(stdev(values) ** 2 / len(values))
    assert found.freedom == pytest.approx(len(values) - 1, rel=0.1)
    assert spread_of_mean(values, list(range(len(values)))) == found
    assert independent_share(values, list(range(len(values))), found) == pytest.approx(1.0)


@given(st.lists(st.tuples(*[st.floats(-10, 10)] * 3), min_size=2, max_size=12).filter(lambda rows: np.ptp(rows) > 1e-3))
def test_equal_clusters_count_as_their_means(rows: list[tuple[float, ...]]) -> None:
    """With clusters of one size, CR2 is the variance of their means, known with G - 1 degrees of freedom."""
    values = [value for row in rows for value in row]
    found = spread_of_mean(values, [place for place, row in enumerate(rows) for _ in row])
    assert found is not None
    assert found.variance == pytest.approx(stdev([mean(row) for row in rows]) ** 2 / len(rows), abs=1e-9)
    assert found.freedom == pytest.approx(len(rows) - 1)


def test_unequal_clusters_against_the_matrices_of_bell_and_mccaffrey() -> None:
    """CR2 and its degrees of freedom, computed from the definitions with matrices of all values."""
    sizes, values = [1, 2, 4, 6], np.array([1.0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1])
    clusters = np.repeat(np.arange(4), sizes)
    n = len(values)
    hat = np.full((n, n), 1 / n)
    residuals = values - values.mean()
    variance, columns = 0.0, []
    for cluster in range(4):
        own = np.flatnonzero(clusters == cluster)
        # (I - H_cc)^(-1/2) times a vector of ones, by the eigenvalues of I - H_cc.
        eigenvalues, vectors = np.linalg.eigh(np.eye(len(own)) - hat[np.ix_(own, own)])
        adjusted = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T @ np.ones(len(own))
        variance += float(adjusted @ residuals[own]) ** 2 / n**2
        columns.append((np.eye(n) - hat)[:, own] @ adjusted)
    gram = np.array([[a @ b for b in columns] for a in columns])
    found = spread_of_mean(values, clusters.tolist())
    assert found is not None
    assert found.variance == pytest.approx(variance)
    assert found.freedom == pytest.approx(np.trace(gram) ** 2 / np.trace(gram @ gram))
    assert found.clusters == 4


def test_one_cluster_shows_no_spread() -> None:
    one = ["passage"] * 3
    assert spread_of_mean([1.0, 0.0, 1.0], one) is None
    assert proportion([True, False, True], one).low is None
    assert paired([True] * 3, [True, False, True], one).low is None
    assert mean_of([1.0, 2.0, 3.0], one) == Estimate(2.0, None, None)


def test_clusters_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="3 values have 2 clusters"):
        spread_of_mean([1.0, 2.0, 3.0], ["a", "b"])


def test_a_passage_that_is_right_or_wrong_as_a_whole_counts_once() -> None:
    """Ten passages of five questions each: as ten questions, with the quantile of ten."""
    right = [place < 7 for place in range(10) for _ in range(5)]
    passages = [place for place in range(10) for _ in range(5)]
    found = proportion(right, passages)
    # s^2 / n of 50 over the variance of ten means, both with Bessel's correction.
    effective = 50 * (50 / 49) / 50 / ((10 / 9) / 10)
    assert (found.low, found.high) == pytest.approx(wilson(0.7, effective, t_quantile(9)))
    alone = proportion(right)
    assert alone.low is not None
    assert found.low is not None
    assert found.low < alone.low


def test_nothing_wrong_anywhere_counts_each_passage_once() -> None:
    found = proportion([True] * 50, [place // 5 for place in range(50)])
    assert found.high == 1.0
    assert found.low == pytest.approx(wilson(1.0, 10, t_quantile(9))[0])


def test_paired_is_agresti_and_mins_by_hand() -> None:
    """Of 20 prompts 6 gained and 2 lost: 6.5 and 2.5 of 22."""
    first, second = [True] * 6 + [False] * 2 + [True] * 12, [False] * 6 + [True] * 2 + [True] * 12
    found = paired(first, second)
    reach = Z95 * math.sqrt(9 - 16 / 22) / 22
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((4 / 22 - reach, 4 / 22 + reach))


def test_differences_of_shares_are_smoothed_as_those_of_right_and_wrong() -> None:
    """Half a prompt in each of four cells: two prompts more, one of which changed."""
    changes = np.array([0.5, -0.25, 0.0, 1.0])
    squares = (0.25 + 0.0625 + 1.0 + 1.0) / 6
    centre = 1.25 / 6
    found = changed(changes)
    reach = Z95 * math.sqrt((squares - centre**2) / 6)
    assert (found.mean, found.high) == pytest.approx((0.3125, centre + reach))
    assert found.low == pytest.approx(centre - reach)


def test_seeds_that_never_differ_from_the_base_may_still_differ_on_other_prompts() -> None:
    found = difference(np.zeros((3, 50)))
    alone = paired([True] * 50, [True] * 50)
    assert (found.mean, found.low, found.high) == (0.0, alone.low, alone.high)
    assert found.low is not None
    assert found.low < 0
    assert difference([[1.0], [0.0]]).low is None


def test_a_mean_has_students_interval() -> None:
    values = [1.0, 3.0, 2.0, 6.0]
    reach = stats.t.ppf(0.975, spread_of_mean(values).freedom) * stdev(values) / 2  # type: ignore[union-attr]
    found = mean_of(values)
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, 3 - reach, 3 + reach))


RIGHT = [[1.0] * 80 + [0.0] * 20, [1.0] * 90 + [0.0] * 10, [1.0] * 100]


def test_an_accuracy_over_seeds_by_hand() -> None:
    """Seeds of .8, .9 and 1 over 100 prompts."""
    found = accuracy(RIGHT)
    values = np.array(RIGHT)
    n_prompts = values.mean(axis=0)
    residuals = values - values.mean(axis=1, keepdims=True) - n_prompts + values.mean()
    error = (residuals**2).sum() / (2 * 99)
    seeds = t_quantile(2) * math.sqrt(max(0.01 - error / 100, 0) / 3)
    effective = 0.9 * 0.1 / (n_prompts.var(ddof=1) / 100) * 100 / 99
    low, _ = wilson(0.9, effective)
    assert found.mean == pytest.approx(0.9)
    assert found.low == pytest.approx(0.9 - math.hypot(seeds, 0.9 - low))
    assert found.high == 1.0, "an accuracy is no more than 1"


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_seeds_leave_the_prompts_part(seeds: int) -> None:
    same = accuracy([[1.0] * 90 + [0.0] * 10] * seeds)
    assert (same.low, same.high) == pytest.approx(wilson(0.9, 100))
    right = accuracy([[1.0] * 40] * seeds)
    assert (right.low, right.high) == pytest.approx(wilson(1.0, 40))


def test_an_average_over_two_seeds_takes_nothing_out() -> None:
    found = average([[1.0, 1.0, 3.0, 3.0], [2.0, 4.0, 2.0, 4.0]])
    seeds = t_quantile(1) * math.sqrt(0.5 / 2)
    spread = spread_of_mean([1.5, 2.5, 2.5, 3.5])
    assert spread is not None
    reach = math.hypot(seeds, t_quantile(spread.freedom) * math.sqrt(spread.variance))
    assert (found.mean, found.low, found.high) == pytest.approx((2.5, 2.5 - reach, 2.5 + reach))


def test_noise_of_the_prompts_is_not_counted_among_seeds() -> None:
    """Three seeds that differ by independent noise of each answer alone: nearly the interval over the prompts."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 400))
    found, prompts = average(values), mean_of(values.mean(axis=0))
    assert found.high is not None
    assert prompts.high is not None
    naive = math.hypot(
        prompts.high - prompts.mean, t_quantile(2) * float(values.mean(axis=1).std(ddof=1)) / math.sqrt(3)
    )
    assert prompts.high - prompts.mean <= found.high - found.mean < naive


def test_a_ratio_by_hand() -> None:
    """.6 over .75: each answer moves it as (a - .8 b) / .75, so that its half-width is that of the moves."""
    above, below = [[1.0, 1.0, 1.0, 0.0, 0.0]] * 2, [[1.0, 1.0, 0.0, 1.0, 0.75]] * 2
    found = ratio(above, below)
    assert found is not None
    assert found.mean == pytest.approx(0.8)
    moved = average((np.array(above) - 0.8 * np.array(below)) / 0.75)
    assert moved.high is not None
    assert found.high == pytest.approx(0.8 + moved.high)
    assert found.low == 0.0, "a ratio of accuracies is no less than 0"
    assert ratio(above, [[0.0] * 5] * 2) is None


@pytest.mark.parametrize(
    "found", [accuracy([[0.7] * 10]), average([[0.6, 0.8]]), average([[0.7], [0.7]]), ratio([[0.7]], [[1.0]])]
)
def test_one_seed_or_one_prompt_has_no_interval(found: Estimate | None) -> None:
    assert found is not None
    assert found.mean == pytest.approx(0.7)
    assert found.low is None
    assert found.high is None
    assert str(found) == "0.700"


@pytest.mark.parametrize("values", [[], [[]], [0.5]])
def test_values_that_are_no_matrix_are_refused(values: Sequence[float]) -> None:
    with pytest.raises(ValueError, match="give \\[seeds, prompts\\]"):
        average(values)


def test_a_p_value_below_5_percent_and_an_interval_without_0_are_the_same() -> None:
    for gained in range(12):
        first = [True] * gained + [False] * (30 - gained)
        second = [False] * 28 + [True] * 2

        def interval(confidence: float, first: list[bool] = first, second: list[bool] = second) -> Estimate:
            return paired(first, second, confidence=confidence)

        found = interval(0.95)
        assert found.low is not None
        assert found.high is not None
        assert (p_value(interval) < 0.05) == (found.low > 0 or found.high < 0)


def test_a_p_value_is_students() -> None:
    values = [0.3, 1.2, 0.8, -0.1, 0.9, 0.4]
    spread = spread_of_mean(values)
    assert spread is not None
    t = mean(values) / math.sqrt(spread.variance)
    assert p_value(lambda c: mean_of(values, confidence=c)) == pytest.approx(
        2 * stats.t.sf(t, spread.freedom), abs=1e-9
    )
    assert p_value(lambda c: Estimate(1.0, None, None)) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_never_lowers(values: list[float]) -> None:
    corrected = holm(values)
    assert all(after >= before for before, after in zip(values, corrected, strict=True))
    ordered = [after for _, after in sorted(zip(values, corrected, strict=True))]
    assert all(a <= b for a, b in pairwise(ordered))
    assert corrected[values.index(min(values))] == pytest.approx(min(1.0, min(values) * len(values)))


def test_detectable_is_as_many_standard_errors_as_theory_says() -> None:
    values = np.random.default_rng(1).normal(size=100_000).tolist()
    found = detectable(lambda confidence: mean_of(values, confidence=confidence))
    error = stdev(values) / math.sqrt(len(values))
    assert found == pytest.approx((1.959964 + 0.841621) * error, rel=1e-4)
    assert detectable(lambda confidence: Estimate(0.0, None, None)) is None
