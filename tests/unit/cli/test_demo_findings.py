"""The demo's findings: each sentence is on the side that its numbers imply."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from zfleet.evaluate.statistics.proportions import wilson
from zfleet_cli.demo.lab.findings import findings

Report = dict[str, Any]


def row(accuracy: float, n: int = 500) -> dict[str, Any]:
    return {"n": n, "accuracy": accuracy, "ci95": wilson(accuracy, n)}


def skill(base: float, clear_verb: float, expert: float) -> dict[str, Any]:
    return {
        "n": 500,
        "base": base,
        "base_ci95": wilson(base, 500),
        "clear_verb": clear_verb,
        "expert": expert,
        "ci95": wilson(expert, 500),
        "trained_parameters": 1344,
    }


def control(task: str, base: float, clear_verb: float, accuracy: float) -> dict[str, Any]:
    values = skill(base, clear_verb, accuracy)
    return {"task": task, "accuracy": values.pop("expert"), **values}


def exam(base: float, best: float, cem: tuple[float, ...]) -> dict[str, Any]:
    draws = [{"base": base, "best_single": best, "pick_one": best, "cem": accuracy} for accuracy in cem]
    return {"draws": draws, "mean": {"base": base, "best_single": best, "pick_one": best, "cem": sum(cem) / len(cem)}}


GOOD: Report = {
    "skills": {"reverse": skill(0.52, 0.98, 0.97), "sort": skill(0.55, 0.96, 0.99)},
    "controls": {
        "weak_skill": control("lookup", 0.40, 0.45, 0.42),
        "random_reward": control("reverse", 0.52, 0.98, 0.50),
    },
    "classifier": {
        "n": 500,
        "label_accuracy": 0.99,
        "base_label_accuracy": 0.48,
        "unseen": {"table_sum": row(0.93)},
    },
    "mixing": {"exam_trained": exam(0.55, 0.68, (0.86, 0.80, 0.88))},
    "dispatch": {
        "base": row(0.51, 1000),
        "prompt": row(0.60, 1000),
        "classifier": row(0.87, 1000),
        "oracle": row(0.88, 1000),
        "reverse_digits_base": row(0.47),
        "reverse_digits_classifier": row(0.60),
        "reverse_digits_few_shot": row(0.73),
        "table_sum_base": row(0.66),
        "table_sum_classifier": row(0.90),
        "table_sum_few_shot": row(0.99),
    },
}
"""A report in which everything that can work does."""


@pytest.fixture
def report() -> Report:
    return copy.deepcopy(GOOD)


def only(sentences: list[str], *parts: str) -> str:
    """Return the only sentence that contains all the parts."""
    (match,) = [sentence for sentence in sentences if all(part in sentence for part in parts)]
    return match


def test_in_a_good_run_only_the_controls_do_not_gain(report: Report) -> None:
    worked, failed = findings(report)
    assert len(worked) == 2 + 2 + 1 + 2 + 4
    assert failed == [
        "lookup, chosen as a skill that the base hardly holds (45.0% even with the clear verb): training moved it from "
        "40.0% to 42.0%. No more than chance explains: SVF elicits, it does not teach.",
        "Random rewards moved reverse from 52.0% to 50.0%: no gain, as it must be.",
    ]
    assert "1,344 numbers" in only(worked, "reverse: the expert", "97.0% of 500", "52.0%", "98.0%")
    assert "+16.7 points" in only(worked, "exam trained", "(86.0%, 80.0%, 88.0%)", "68.0%", "55.0%")


def test_an_expert_below_the_ceiling(report: Report) -> None:
    report["skills"]["reverse"] = skill(0.52, 0.98, 0.85)
    worked, failed = findings(report)
    assert "less than 90% of what the clear verb shows" in only(
        failed, "reverse: the expert", "85.0%", "52.0%", "98.0%"
    )
    only(worked, "sort: the expert")


def test_an_expert_that_gains_little(report: Report) -> None:
    report["skills"]["sort"] = skill(0.80, 0.96, 0.95)
    _, failed = findings(report)
    sentence = only(failed, "sort: the expert", "80.0%", "95.0%")
    assert "+15.0 points" in sentence
    assert "less than" not in sentence


def test_a_base_that_answers_nothing_divides_nothing(report: Report) -> None:
    report["skills"]["sort"] = skill(0.0, 0.0, 0.0)
    only(findings(report)[1], "sort: the expert answers 0.0%")


@pytest.mark.parametrize(
    ("accuracy", "worked", "words"),
    [(0.60, False, "A gain, but 40.0% stay wrong"), (0.95, True, "more to elicit than it seemed")],
)
def test_a_weak_skill_that_gains(report: Report, accuracy: float, worked: bool, words: str) -> None:
    report["controls"]["weak_skill"] = control("lookup", 0.40, 0.45, accuracy)
    only(findings(report)[0 if worked else 1], "lookup", "40.0%", f"{accuracy:.1%}", words)


def test_random_rewards_that_gain_are_a_warning(report: Report) -> None:
    report["controls"]["random_reward"] = control("reverse", 0.52, 0.98, 0.70)
    assert "a warning" in only(findings(report)[1], "Random rewards", "52.0%", "70.0%")


def test_a_classifier_that_misses(report: Report) -> None:
    report["classifier"]["label_accuracy"] = 0.8
    report["classifier"]["unseen"]["reverse_digits"] = row(0.0)
    worked, failed = findings(report)
    only(failed, "names the kind of 80.0%", "48.0%")
    only(failed, "For reverse digits", "0.0%")
    only(worked, "For table sum", "93.0%")


def test_a_mixture_below_the_base_is_reported_even_if_the_mean_gains(report: Report) -> None:
    report["mixing"]["exam_trained"] = exam(0.55, 0.60, (0.50, 0.80, 0.80))
    worked, failed = findings(report)
    only(worked, "exam trained: mixtures", "70.0% on average")
    only(failed, "exam trained: in 1 of 3 draws", "50.0% against 55.0%")


def test_a_mixture_no_better_than_the_best_single(report: Report) -> None:
    report["mixing"]["exam_trained"] = exam(0.55, 0.68, (0.70, 0.70, 0.70))
    worked, failed = findings(report)
    assert "+2.0 points" in only(failed, "exam trained", "70.0%", "68.0%")
    assert not [sentence for sentence in worked if "exam trained" in sentence]


def test_dispatch_that_gains_nothing(report: Report) -> None:
    report["dispatch"]["prompt"] = row(0.40, 1000)
    report["dispatch"]["classifier"] = row(0.53, 1000)
    _, failed = findings(report)
    only(failed, "dispatch by the classifier answers 53.0%", "51.0%")
    only(failed, "asking the base itself answers 40.0%", "worse than the base's 51.0%", "worse than the classifier")


def test_few_shot_search_can_work_where_dispatch_fails(report: Report) -> None:
    report["dispatch"]["reverse_digits_classifier"] = row(0.35)
    worked, failed = findings(report)
    only(failed, "reverse digits", "35.0%", "the base alone 47.0%", "does harm")
    only(worked, "reverse digits", "73.0%", "35.0%", "few-shot search is clearly the better way")


@pytest.mark.parametrize(
    ("few_shot", "words"), [(0.91, "no more than chance explains"), (0.70, "the classifier is clearly the better way")]
)
def test_few_shot_search_that_is_not_better(report: Report, few_shot: float, words: str) -> None:
    report["dispatch"]["table_sum_few_shot"] = row(few_shot)
    worked, failed = findings(report)
    only(failed, "table sum", f"{few_shot:.1%}", "90.0%", words)
    only(worked, "table sum", "90.0%", "the base alone 66.0%")
