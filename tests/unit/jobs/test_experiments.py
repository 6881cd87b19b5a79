"""What an experiment shows, by hand, and specs of experiments."""

from __future__ import annotations

import math
from typing import Any

import pytest

from zfleet.config.compare import AblateSpec, CompareSpec
from zfleet.config.load import parse_spec
from zfleet.errors import SpecError
from zfleet.statistics import estimate
from zfleet_jobs.compare.findings import findings, ratios
from zfleet_jobs.compare.plot import plot
from zfleet_jobs.compare.run import trials_of
from zfleet_jobs.compare.trial import Outcome


def _outcomes(method: str, accuracies: list[float], parameters: int, task: str = "t") -> list[Outcome]:
    return [
        Outcome(method, task, seed, 0.5, accuracy, None, 100, parameters, 64, 2.0 + seed, 10.0)
        for seed, accuracy in enumerate(accuracies)
    ]


def test_an_interval_by_hand() -> None:
    """Of 1, 2, 3: standard error 1/sqrt(3), and 4.3027 of them at two degrees of freedom."""
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert (found.low, found.high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    alone = estimate([0.7])
    assert alone.mean == 0.7
    assert math.isnan(alone.low)
    assert str(alone) == "0.700"


def test_findings_are_means_and_ratios_are_paired_by_seed() -> None:
    outcomes = [*_outcomes("svf", [0.90, 0.92, 0.94], 10), *_outcomes("lora", [0.95, 0.97, 0.99], 100)]
    svf, lora = findings(outcomes)
    assert (svf.method, svf.parameters, svf.seconds) == ("svf", 10, 3.0)
    assert svf.accuracy.mean == pytest.approx(0.92)
    assert lora.accuracy.mean == pytest.approx(0.97)
    (ratio,) = ratios(outcomes, "lora")
    assert ratio.difference.mean == pytest.approx(-0.05)
    # The same for every seed: paired, it is certain, though the two intervals overlap.
    assert svf.accuracy.high > lora.accuracy.low
    assert (ratio.verdict, ratio.parameters) == ("lora wins", 0.1)
    assert ratio.ratio.mean == pytest.approx((0.90 / 0.95 + 0.92 / 0.97 + 0.94 / 0.99) / 3)


@pytest.mark.parametrize(
    ("mine", "verdict"), [([0.9, 0.95, 0.99], "not shown"), ([0.99, 0.985, 0.99], "svf wins"), ([0.99], "not shown")]
)
def test_a_verdict_needs_an_interval_without_zero(mine: list[float], verdict: str) -> None:
    theirs = [0.94, 0.94, 0.94][: len(mine)]
    (ratio,) = ratios([*_outcomes("svf", mine, 1), *_outcomes("lora", theirs, 1)], "lora")
    assert ratio.verdict == verdict


def test_nothing_right_is_nothing_to_divide_by() -> None:
    (ratio,) = ratios([*_outcomes("svf", [0.02, 0.02], 1), *_outcomes("lora", [0.0, 0.0], 1)], "lora")
    assert ratio.ratio.mean == pytest.approx(2.0)


def test_the_picture_is_one() -> None:
    outcomes = [*_outcomes("svf", [0.9], 10), *_outcomes("lora", [0.95], 100)]
    assert plot(findings(outcomes), "compare").startswith(b"\x89PNG")


def _compare(**values: Any) -> dict[str, Any]:
    return {
        "tasks": {"sort": {"lab": "sort"}},
        "methods": {"svf": {}, "lora": {"adapter": "lora", "learner": {"lr": 0.01}}},
        "against": "lora",
        **values,
    }


def test_every_method_learns_every_task_with_every_seed() -> None:
    spec = parse_spec(_compare(seeds=[3, 4]), CompareSpec)
    found = [(t.method, t.task, t.seed, t.learner.lr, t.learner.seed) for t in trials_of(spec)]
    assert found == [
        ("svf", "sort", 3, 0.02, 3),
        ("svf", "sort", 4, 0.02, 4),
        ("lora", "sort", 3, 0.01, 3),
        ("lora", "sort", 4, 0.01, 4),
    ]


def test_an_ablation_is_the_whole_grid() -> None:
    spec = parse_spec({"tasks": {"sort": {"lab": "sort"}}, "parametrisations": ["sigmoid", "exp"]}, AblateSpec)
    trials = trials_of(spec)
    assert len(trials) == 3 * 2 * 2 * 3
    chosen = {(t.settings.targets, t.learner.objective, t.learner.parametrisation) for t in trials}
    assert len(chosen) == 12
    assert all(t.method == f"{t.settings.targets} {t.learner.objective} {t.learner.parametrisation}" for t in trials)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"against": "dora"}, "against is 'dora', the methods are svf, lora"),
        ({"seeds": [1, 1]}, "seeds has one twice"),
        ({"engine": "vllm"}, "engine.kind is 'vllm'"),
        ({"learner": {"staleness": 1}}, "staleness is 1: with adapter `lora` the model itself changes"),
        ({"methods": {"svf": {"rank": 4}, "lora": {"adapter": "lora"}}}, "rank and alpha are for adapter `lora`"),
        ({"methods": {"svf": {"learner": {"lr": "fast"}}, "lora": {"adapter": "lora"}}}, "lr"),
        ({"methods": {"svf": {"learner": {"rate": 1}}, "lora": {"adapter": "lora"}}}, "rate"),
    ],
)
def test_what_cannot_be_compared_is_said(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(_compare(**changes), CompareSpec)
    assert told in caught.value.message
