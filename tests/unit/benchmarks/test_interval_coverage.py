"""The intervals hold the true value as often as they say, in the benchmark's own cases.

All cases with more draws are in ``benchmarks/interval_coverage.py``; these are one of each formula, and fixed draws.
"""

from __future__ import annotations

import json

import pytest

import interval_coverage
from interval_coverage import CASES, LEAST, MOST, measure

ONE_OF_EACH = (
    "accuracy near 0, 100 prompts",
    "difference near 1, 100 prompts",
    "accuracy near 1, 50 passages of 4 to 8",
    "difference in the middle, 10 passages of 5 to 15",
    "mean of skewed rewards, 100 prompts",
    "accuracy of 3 seeds near 1, 200 prompts",
    "difference of 5 seeds that differ, 200 prompts",
    "difference of 3 seeds, 40 passages of 2 to 6",
)


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_between_93_and_97_of_100_intervals_hold_the_true_value(case: str) -> None:
    found = measure(case, CASES[case], 1500)
    assert LEAST <= found.coverage <= MOST


def test_an_interval_that_is_blind_to_passages_and_seeds_does_not() -> None:
    for case in ONE_OF_EACH[3::3]:
        assert measure(case, CASES[case], 200).plain < LEAST


def test_the_benchmark_prints_every_case(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(interval_coverage, "CASES", {case: CASES[case] for case in ONE_OF_EACH[:2]})
    assert interval_coverage.main(["--json", "--draws", "1500"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(row["case"], row["holds"]) for row in printed] == [(case, True) for case in ONE_OF_EACH[:2]]
    assert interval_coverage.main(["--draws", "20"]) == 1, "20 draws cannot show 95 %: 20 of 20 or 18 of 20"
    assert "outside" in capsys.readouterr().out
