"""What an experiment shows, by hand."""

from __future__ import annotations

import pytest

from zfleet.evaluate.statistics.crossed import accuracy, average
from zfleet.evaluate.statistics.single import paired
from zfleet_jobs.compare.findings import findings, ratios
from zfleet_jobs.compare.outcome import Outcome
from zfleet_jobs.compare.plot import plot
from zfleet_jobs.testing.outcomes import outcomes_of, right


def test_nothing_right_is_nothing_to_divide_by() -> None:
    outcomes = [*outcomes_of("svf", [right(3, 5)] * 2), *outcomes_of("lora", [right(0, 5)] * 2)]
    (found,) = ratios(outcomes, "lora")
    assert found.ratio is None
    assert found.difference.mean == pytest.approx(0.6)


def test_findings_are_means_over_seeds() -> None:
    outcomes = outcomes_of("svf", [right(90, 100), right(92, 100), right(94, 100)], 10)
    (svf,) = findings(outcomes)
    assert (svf.method, svf.seeds, svf.n, svf.parameters, svf.seconds) == ("svf", 3, 100, 10, 3.0)
    assert (svf.held_mib, svf.peak_mib) == (30.0, 50.0)
    rewards = [right(90, 100), right(92, 100), right(94, 100)]
    assert svf.accuracy == accuracy([[reward > 0 for reward in seed] for seed in rewards])
    assert svf.accuracy.mean == pytest.approx(0.92)
    assert svf.reward == average(rewards)
    assert svf.reward.mean == pytest.approx(0.84)


def test_seeds_that_graded_no_prompt_in_common_have_a_mean_and_no_interval() -> None:
    (svf,) = findings(outcomes_of("svf", [[1.0, None], [None, -1.0]]))
    assert (svf.accuracy.mean, svf.accuracy.low, svf.reward.mean, svf.reward.high) == (0.5, None, 0.0, None)


def test_one_prompt_of_500_is_not_shown_however_often_it_is_measured() -> None:
    """.990 against .988 in all three seeds, on the same prompts: the seeds agree, the prompts do not say it."""
    outcomes = [*outcomes_of("svf", [right(495, 500)] * 3), *outcomes_of("lora", [right(494, 500)] * 3)]
    (found,) = ratios(outcomes, "lora")
    assert found.difference.mean == pytest.approx(0.002)
    alone = paired([True] * 495 + [False] * 5, [True] * 494 + [False] * 6)
    assert (found.difference.low, found.difference.high) == pytest.approx((alone.low, alone.high))
    assert (found.verdict, found.seeds, found.n) == ("not shown", 3, 500)


def test_a_gap_that_holds_over_prompts_and_seeds_is_shown() -> None:
    """.90 against .95, the same prompts in every seed: paired, it is shown, though the two intervals overlap."""
    outcomes = [*outcomes_of("svf", [right(90, 100)] * 3, 10), *outcomes_of("lora", [right(95, 100)] * 3, 100)]
    svf, lora = findings(outcomes)
    assert svf.accuracy.high is not None
    assert lora.accuracy.low is not None
    assert svf.accuracy.high > lora.accuracy.low
    (found,) = ratios(outcomes, "lora")
    assert (found.verdict, found.parameters) == ("lora wins", 0.1)
    assert found.ratio is not None
    assert found.ratio.mean == pytest.approx(0.90 / 0.95)


@pytest.mark.parametrize(
    ("mine", "verdict"),
    [
        ([450, 475, 495], "not shown"),
        ([495, 493, 495], "svf wins"),
        ([440, 441, 440], "lora wins"),
        ([495], "not shown"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(mine: list[int], verdict: str) -> None:
    theirs = [right(470, 500)] * len(mine)
    (found,) = ratios(
        [*outcomes_of("svf", [right(count, 500) for count in mine]), *outcomes_of("lora", theirs)], "lora"
    )
    assert found.verdict == verdict


def test_prompts_that_one_did_not_grade_are_compared_by_none() -> None:
    mine, theirs = [1.0, None, 1.0, -1.0], [None, -1.0, -1.0, -1.0]
    (found,) = ratios([*outcomes_of("svf", [mine] * 2), *outcomes_of("lora", [theirs] * 2)], "lora")
    assert (found.n, found.difference.mean) == (2, 0.5)
    apart = [*outcomes_of("svf", [[1.0, None]] * 2), *outcomes_of("lora", [[None, 1.0]] * 2)]
    assert ratios(apart, "lora") == []


def test_only_seeds_that_both_finished_are_compared() -> None:
    outcomes = [*outcomes_of("svf", [right(3, 4), right(2, 4)]), *outcomes_of("lora", [right(1, 4)])]
    (found,) = ratios(outcomes, "lora")
    assert (found.seeds, found.difference.mean) == (1, 0.5)
    outcomes += outcomes_of("svf", [right(1, 4)], task="u")
    assert [(one.task, one.method) for one in findings(outcomes)] == [("t", "svf"), ("t", "lora"), ("u", "svf")]
    assert len(ratios(outcomes, "lora")) == 1, "nothing of u to be compared with"
    assert plot(findings(outcomes), "compare").startswith(b"\x89PNG")


def test_the_picture_takes_patterns_for_names() -> None:
    outcomes = [*outcomes_of("q$|k$ exp", [right(3, 4)] * 2), *outcomes_of("[red]", [right(1, 4)] * 2)]
    assert plot(findings(outcomes), "ablate").startswith(b"\x89PNG")


def test_an_outcome_is_kept_as_it_is() -> None:
    (outcome,) = outcomes_of("svf", [[1.0, None, -1.0]])
    assert Outcome.from_json(outcome.to_json()) == outcome
