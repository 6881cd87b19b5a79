"""Runs return all that jobs log: no value is cut, and none is lost between two requests."""

from __future__ import annotations

import math

import pytest

from zfleet.errors import RegistryError
from zfleet_registry import ExpertRegistry


def test_a_run_and_its_curve(registry: ExpertRegistry) -> None:
    run = registry.start_run("train", experiment="lab", params={"lr": "0.002"}, tags={"task": "add"})
    rows = [(step, {"loss": 1 / (step + 1), "reward": float(step)}) for step in range(600)]
    registry.log_curve(run, rows)
    registry.log_metrics(run, {"accuracy": 0.5, "bad": math.nan})
    registry.end_run(run, "FINISHED")
    assert registry.curve(run, "loss") == [(step, row["loss"]) for step, row in rows]
    metrics = registry.metrics(run)
    assert metrics["reward"] == 599.0
    assert metrics["accuracy"] == 0.5
    assert math.isnan(metrics["bad"])
    assert registry.curve(run, "nothing") == []
    stored = registry._client.get_run(run)
    assert stored.data.params == {"lr": "0.002"}
    assert stored.data.tags["task"] == "add"
    assert stored.info.status == "FINISHED"


def test_a_resumed_run_may_log_a_step_again(registry: ExpertRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    run = registry.start_run("train", experiment="lab")
    registry.log_curve(run, [(1, {"loss": 3.0}), (2, {"loss": 2.0})])
    monkeypatch.setattr("zfleet_registry.runs.time.time", lambda: 4e9)
    registry.log_curve(run, [(2, {"loss": 1.0}), (3, {"loss": 0.5})])
    assert registry.curve(run, "loss") == [(1, 3.0), (2, 1.0), (3, 0.5)]


def test_many_parameters_fit(registry: ExpertRegistry) -> None:
    params = {f"p{index}": str(index) for index in range(150)}
    run = registry.start_run("train", experiment="lab", params=params)
    assert registry._client.get_run(run).data.params == params


def test_values_that_mlflow_would_cut_are_refused(registry: ExpertRegistry) -> None:
    with pytest.raises(RegistryError, match="parameter 'spec' has 6001 characters"):
        registry.start_run("train", experiment="lab", params={"spec": "x" * 6001})
    with pytest.raises(RegistryError, match="tag 'spec' has 8001 characters"):
        registry.start_run("train", experiment="lab", tags={"spec": "x" * 8001})


def test_an_unknown_run_is_refused(registry: ExpertRegistry) -> None:
    with pytest.raises(RegistryError, match=r"read metrics of run 0123"):
        registry.metrics("0123")
