"""`zfleet compare` and `zfleet ablate`: what they print, also where trainings failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from zfleet_cli.main import app
from zfleet_jobs.compare import run as compare_run
from zfleet_jobs.compare.outcome import Failure, Outcome, Results
from zfleet_jobs.testing.outcomes import outcomes_of, right

Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``command(finished, failed, *arguments)``: `zfleet compare` of trainings that gave this."""
    spec = tmp_path / "spec.yaml"
    methods = {"svf": {}, "lora": {"adapter": "lora"}}
    given = {"tasks": {"t": {"lab": "sort"}}, "methods": methods, "against": "lora", "storage": str(tmp_path / "runs")}
    spec.write_text(yaml.safe_dump(given))

    def give(finished: list[Outcome], failed: list[Failure], *arguments: str) -> Result:
        monkeypatch.setattr(compare_run, "run_experiment", lambda *_: Results(finished, failed))
        return CliRunner().invoke(app, ["compare", str(spec), *arguments], env={"COLUMNS": "300"})

    return give


def test_the_tables_say_what_was_measured(command: Command, tmp_path: Path) -> None:
    finished = [*outcomes_of("svf", [right(495, 500)] * 3, 10), *outcomes_of("lora", [right(494, 500)] * 3, 100)]
    done = command(finished, [])
    assert done.exit_code == 0, done.output
    # A title is as wide as its table.
    shown = " ".join(done.stdout.split())
    assert "held-out prompts: 500, seeds: 3, mean [95 % over seeds and prompts]" in shown
    assert "seconds are those of trainings side by side" in shown
    assert "verdicts are at 95 % each: one in twenty may be chance" in shown
    assert "not shown" in done.stdout
    assert "10.0%" in done.stdout
    assert "0.980 [" in done.stdout, "the mean reward"
    assert (tmp_path / "runs" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_trainings_that_failed_are_named_and_the_others_told(command: Command) -> None:
    failed = [
        Failure("lora", "t", 1, "the gradient's norm is nan", "lower learner.lr"),
        Failure("svf", "u", 0, "b", ""),
    ]
    done = command(outcomes_of("svf", [right(3, 4)]), failed)
    assert done.exit_code == 1
    assert "held-out prompts: 4, seeds: 1, mean;" in done.stdout, "one seed has no interval"
    assert "0.750" in done.stdout
    assert "the gradient's norm is nan" in done.stdout
    assert "error: 2 of 3 trainings failed: lora on t (seed 1), svf on u (seed 0)" in done.stderr
    assert "the same command repeats only the failed ones" in done.stderr


def test_json_is_json_with_one_seed_and_nothing_right(command: Command) -> None:
    finished = [*outcomes_of("svf", [right(3, 4)]), *outcomes_of("lora", [right(0, 4)])]
    done = command(finished, [Failure("svf", "t", 1, "why", "what to do")], "--json")
    assert done.exit_code == 1
    assert "NaN" not in done.stdout
    found = json.loads(done.stdout)
    assert found["ratios"][0]["ratio"] is None
    assert found["ratios"][0]["difference"] == {"mean": 0.75, "low": None, "high": None}
    assert found["failed"] == [{"method": "svf", "task": "t", "seed": 1, "reason": "why", "remedy": "what to do"}]
    assert "rewards" not in found["trainings"][0]
    assert "none right" in command(finished, []).stdout


def test_what_was_found_is_told_though_the_picture_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    done = command(outcomes_of("svf", [right(3, 4)]), [])
    assert done.exit_code == 1
    assert "0.750" in done.stdout
    assert "cannot be written" in done.stderr


def test_where_all_failed_there_is_no_picture(command: Command, tmp_path: Path) -> None:
    done = command([], [Failure("svf", "t", 0, "why", "")])
    assert done.exit_code == 1
    assert "why" in done.stdout
    assert not (tmp_path / "runs").exists()
