"""``zfleet calibrate``: what is checked before it starts, and what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from zfleet.adapt.calibration import Facts
from zfleet.adapt.measure import Measured
from zfleet.config.calibrate import CalibrateSpec
from zfleet_cli.main import app
from zfleet_jobs.calibrate.run import CalibrateResult

SPEC = str(Path(__file__).parents[3] / "jobs" / "specs" / "lab-router.yaml")
FACTS = Facts(
    prompts=990,
    measured=490,
    data_digest="d",
    labels=("add", "sort"),
    accuracy=0.98,
    ece=0.01,
    coverage=0.97,
    risk=0.004,
    risk_asked=0.05,
    risk_at_most=0.02,
    certainty=0.95,
    strange_at_most=0.04,
)
RESULT = CalibrateResult(
    reference="router/1",
    kind="cascade",
    labels=("add", "sort"),
    thresholds=(0.5, None),
    facts=FACTS,
    measured=Measured(n=1010, accuracy=0.975, ece=0.0125, coverage=0.96, risk=0.005, tokens=17.5),
    left_out=0,
    seconds=3.0,
)


def zfleet(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[CalibrateSpec]:
    """Stand in for the job, and note the specs that it gets."""
    monkeypatch.setenv("COLUMNS", "200")
    specs: list[CalibrateSpec] = []

    def run_calibrate(spec: CalibrateSpec, address: str | None) -> CalibrateResult:
        specs.append(spec)
        return RESULT

    module = ModuleType("zfleet_jobs.calibrate.run")
    module.run_calibrate = run_calibrate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zfleet_jobs.calibrate.run", module)
    return specs


def test_a_table_tells_how_far_to_trust_the_dispatcher(ran: list[CalibrateSpec]) -> None:
    done = zfleet("calibrate", SPEC, "--set", "risk=0.1")
    assert done.exit_code == 0, done.output
    assert ran[0].risk == 0.1
    for shown in ("router/1", "0.975", "0.0125", "0.5, -", "0.96", "0.005", "0.02", "17.5"):
        assert shown in done.stdout


def test_json_has_the_whole_result(ran: list[CalibrateSpec]) -> None:
    (row,) = json.loads(zfleet("calibrate", SPEC, "--json").stdout)
    assert row["facts"]["strange_at_most"] == 0.04
    assert row["measured"]["ece"] == 0.0125
    assert row["thresholds"] == [0.5, None]


def test_a_dispatcher_of_tasks_has_nothing_to_measure(
    ran: list[CalibrateSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = CalibrateResult("router/1", "few_shot", ("exam",), (), None, None, 0, 1.0)
    module: Any = sys.modules["zfleet_jobs.calibrate.run"]
    monkeypatch.setattr(module, "run_calibrate", lambda spec, address: bare)
    done = zfleet("calibrate", SPEC)
    assert done.exit_code == 0, done.output


def test_a_dry_run_checks_the_tasks_and_prints_the_spec(ran: list[CalibrateSpec]) -> None:
    done = zfleet("calibrate", SPEC, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "certainty: 0.95" in done.stdout
    assert not ran
    refused = zfleet("calibrate", SPEC, "--set", "labels.sort.task.lab=nothing")
    assert refused.exit_code == 1
    assert "no lab task is named 'nothing'" in refused.stderr
