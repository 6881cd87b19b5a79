"""What a person sees of many experts in training."""

from __future__ import annotations

import io
from functools import partial

import pytest
from rich.console import Console

from zfleet_jobs.run_folder.checkpoints import CurvePoint
from zfleet_jobs.train.progress import display
from zfleet_jobs.train.progress.display import train_display

EXPERTS = {f"expert-{number:02}": 4 for number in range(40)}


def _point(name: str, step: int) -> CurvePoint:
    return CurvePoint(name, step, {"reward": 0.25 * step, "tokens_per_second": 100.0})


def _shown(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> str:
    """What is written from a step on, where of forty experts thirty are done, two under way, and the others wait."""
    file = io.StringIO()
    console = partial(Console, file=file, force_terminal=terminal, width=120, height=12)
    monkeypatch.setattr(display, "Console", lambda **options: console(**{**options, "stderr": False}))
    with train_display(EXPERTS) as shown:
        for name in list(EXPERTS)[:30]:
            shown.update([_point(name, 4)])
            shown.done(name, f"{name}/1")
        shown.update([_point("expert-31", 1), _point("expert-30", 1)])
        told = file.getvalue()
        file.truncate(0)
        file.seek(0)
        shown.update([_point("expert-31", 2)])
        shown.done("expert-30", "failed")
    assert "train expert-07: expert-07/1" in told
    return file.getvalue()


def test_of_many_experts_those_under_way_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    last = _shown(monkeypatch, terminal=True).rpartition("train expert-30: failed")[2]
    assert "31/40" in last
    assert "2/4" in last
    assert "reward +0.50" in last
    assert "expert-07" not in last, "those that are done take room"
    assert "expert-35" not in last, "those that wait take room"


def test_without_a_terminal_there_is_a_line_for_each_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _shown(monkeypatch, terminal=False).strip() == "train expert-30: failed"
