"""Progress of experts in training: the display, curves and reports, which may fail and must not end the training."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from zfleet.errors import RegistryUnreachable
from zfleet.memory.table import MemoryTable
from zfleet_jobs.run_folder.checkpoints import CurvePoint, ExpertFolder
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.train.progress import curves, display
from zfleet_jobs.train.progress.curves import Curves, RegistryCalls
from zfleet_jobs.train.progress.deaths import DeathReports
from zfleet_jobs.train.progress.display import train_display
from zfleet_jobs.train.worker import CohortJob, _BoardHandler
from zfleet_registry import ExpertRegistry

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


def test_training_goes_on_without_its_display(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(display, "Console", lambda **options: Console(file=io.StringIO()))
    with train_display({"one": 3}) as shown:
        shown.update([CurvePoint("one", 1, {"reward": 0.5})])  # without a rate
        shown.update([_point("nobody", 1)])
        shown.done("one", "one/1")
    assert [record.message for record in caplog.records] == [
        "the display of progress failed; training goes on without it"
    ]


class Registry:
    """Records curves; raises what it is given, one error for each call."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.points: list[tuple[int, dict[str, float]]] = []

    def log_curve(self, run: str, points: Sequence[tuple[int, dict[str, float]]]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.points += points

    def curve(self, run: str, metric: str) -> list[tuple[int, float]]:
        return [(step, metrics[metric]) for step, metrics in self.points]


@pytest.mark.parametrize(
    ("error", "resent", "message"),
    [
        (ValueError("a bug"), False, "the curve of expert one could not be sent"),
        (RegistryUnreachable("it is away"), True, "the registry here does not answer"),
    ],
)
def test_the_thread_of_curves_outlives_what_goes_wrong_in_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, resent: bool, message: str
) -> None:
    monkeypatch.setattr(curves, "PAUSE_SECONDS", 0.01)
    registry = Registry(error)
    calls = RegistryCalls("here")
    sent = Curves(cast(ExpertRegistry, registry), calls)
    sent.begin("one", lambda: "run")
    points = [CurvePoint("one", step, {"samples": 1.0}) for step in (1, 2)]
    sent.add(points[:1])
    while registry.errors:
        assert not calls.stopping.wait(0.01)
    sent.add(points[1:])
    deadline = time.monotonic() + 60
    while len(registry.points) < (2 if resent else 1):
        assert time.monotonic() < deadline, "the thread died"
        assert not calls.stopping.wait(0.01)
    sent.complete("one", points)
    calls.stopping.set()
    steps = [step for step, _ in registry.points]
    assert steps == ([1, 2] if resent else [2, 1]), "a point was lost or sent twice"
    assert message in caplog.text


class Remote:
    """A board whose calls are recorded, or fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return self

    def remote(self, *arguments: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(arguments)


def _folder(root: Path) -> ExpertFolder:
    return ExpertFolder(Storage.at(str(root), "run", "one"), str(root / "samples"))


def test_a_death_is_reported_whatever_is_wrong_with_the_checkpoints(tmp_path: Path) -> None:
    board = Remote()
    reports = DeathReports("one", board, _folder(tmp_path), max_failures=2, memory=MemoryTable("a worker", ()))
    states = tmp_path / "run" / "one" / "states"
    reports.after_exception(None, {0: ValueError("torn")})
    states.mkdir(parents=True)
    (states / "000001.safetensors").write_bytes(b"")
    reports.after_exception(None, {0: ValueError("torn")})
    reports.after_exception(None, {0: ValueError("torn")})
    causes = {0: "failed (ValueError: torn)"}
    assert board.calls[0] == ("one", causes, "restarting from step 0")
    assert board.calls[1][2].startswith(f"restarting, but {states}/000001.safetensors is truncated or damaged")
    assert board.calls[2] == ("one", causes, "it was restarted as often as `max_failures` allows")


def _report(board: Remote, root: Path) -> None:
    DeathReports("one", board, _folder(root), max_failures=2, memory=MemoryTable("a worker", ())).after_exception(
        None, {0: ValueError("torn")}
    )


def _warn(board: Remote, root: Path) -> None:
    job = CohortJob("one", cast(Any, None), cast(Any, None), (), board, None, cast(Any, None))
    _BoardHandler(job).handle(logging.LogRecord("zfleet", logging.WARNING, "", 0, "left out", None, None))


@pytest.mark.parametrize("report", [_report, _warn])
def test_a_board_that_cannot_be_reached_ends_no_training(
    tmp_path: Path, report: Callable[[Remote, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # what ``Handler.handleError`` prints
    report(Remote(ConnectionError("gone")), tmp_path)
