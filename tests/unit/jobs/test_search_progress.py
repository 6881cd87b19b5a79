"""The display of searches: bars on a terminal, lines elsewhere; and the bar is full at the end, whatever comes last."""

from __future__ import annotations

import re

import pytest

from zfleet_jobs.search.progress import SearchProgress


def _result(stage: str, generation: int) -> dict[str, object]:
    return {"search": "exam", "stage": stage, "generation": generation, "answers": 5}


@pytest.mark.parametrize("last", [[], ["final"], ["final", "test"], ["test"]])
def test_the_bar_is_full_at_the_end_and_empty_before_the_first_generation(
    last: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    progress = SearchProgress({"exam": 2})
    progress.setup()
    for stage in ("known", "prior", "known"):
        progress.on_trial_result(0, [], None, _result(stage, 0))
    assert "0/2 generations, 15 answers" in _shown(progress, capfd)
    for generation in range(2):
        progress.on_trial_result(0, [], None, _result("population", generation))
    for stage in last:
        progress.on_trial_result(0, [], None, _result(stage, 1))
    progress.on_experiment_end([])
    assert f"2/2 generations, {25 + 5 * len(last)} answers" in _plain(capfd.readouterr().err)


def test_elsewhere_each_generation_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    progress = SearchProgress({"exam": 2})
    progress.setup()
    for stage, generation in (("known", 0), ("population", 0), ("population", 0), ("population", 1), ("test", 1)):
        progress.on_trial_result(0, [], None, _result(stage, generation))
    progress.on_experiment_end([])
    assert capfd.readouterr().err.splitlines() == [
        "search exam: generation 1 of 2, 10 answers",
        "search exam: generation 2 of 2, 20 answers",
    ]


def _shown(progress: SearchProgress, capfd: pytest.CaptureFixture[str]) -> str:
    assert progress._display is not None
    progress._display.refresh()
    return _plain(capfd.readouterr().err)


def _plain(text: str) -> str:
    """Remove the codes of colours and of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
