"""What a search leaves in MLflow: the winner, its curve, every candidate, and no run that never ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zfleet.errors import RegistryError
from zfleet.search.plan import Generation, Tried
from zfleet.svf.mixture import mix
from zfleet.tasks.lab import lab_task
from zfleet.testing.fake_engine import fake_z
from zfleet_jobs.search.mixtures import FoundMixture, ShotScore
from zfleet_jobs.search.register import EXPERIMENT, register_mixture
from zfleet_registry import ExpertRegistry, ExpertVersion

ONE, TWO = fake_z(1, base="1a2b3c4d" * 8), fake_z(2, base="1a2b3c4d" * 8)
TASK = lab_task("sort", train_size=4, test_size=1)


class Base:
    """What registering needs to know of a base."""

    name = "fake"
    slug = "fake-1a2b3c4d"


def _found(*names: str) -> FoundMixture:
    """Make what a search for two targets found; of its last two candidates the second dropped out of a race."""
    tried = [
        Tried(-1, np.zeros(2), (0.5, -1.0, 0.0), 4),
        Tried(0, np.array([1.0, 0.5]), (0.75, -2.0, 0.0), 4),
        Tried(1, np.array([0.5, 0.5]), (0.5, -0.5, 0.0), 4),
        Tried(1, np.array([0.5, 1.0]), (0.0, 0.0, 0.0), 1),
    ]
    score = ShotScore(0.75, 0.0)
    return FoundMixture(
        name="exam",
        z=mix([ONE, TWO], [1.0, 0.5]),
        alphas=dict(zip(names, (1.0, 0.5), strict=True)),
        score=score,
        base=score,
        singles=dict.fromkeys(names, score),
        searched_best=0.75,
        selection={},
        test={},
        targets=2,
        tried=tuple(tried),
        evaluations=13,
        history=(Generation(0.75, 0.75, 8), Generation(0.75, 0.25, 13)),
        trials=(),
        seconds=1.0,
    )


def _register(registry: ExpertRegistry, *names: str) -> ExpertVersion:
    base: Any = Base()
    return register_mixture(registry, _found(*names), TASK, dict(zip(names, (ONE, TWO), strict=True)), base)


def _runs(registry: ExpertRegistry) -> list[Any]:
    experiment = registry._client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(registry._client.search_runs([experiment.experiment_id]))


def test_both_targets_are_logged_for_each_generation_and_each_candidate(tmp_path: Path) -> None:
    registry = ExpertRegistry(root=tmp_path)
    run = _register(registry, "one/1", "two/1").run_id
    assert registry.curve(run, "best") == [(0, 0.75), (1, 0.75)]
    # The base counts from the start; one that dropped out is never the best.
    assert registry.curve(run, "best.2") == [(0, -1.0), (1, -0.5)]
    assert registry.curve(run, "mean.2") == [(0, -2.0), (1, -0.25)]
    (nested,) = [one for one in _runs(registry) if one.info.run_id != run]
    assert nested.data.tags["mlflow.parentRunId"] == run
    assert registry.curve(nested.info.run_id, "value") == [(0, 0.5), (1, 0.75), (2, 0.5), (3, 0.0)]
    assert registry.curve(nested.info.run_id, "value.2") == [(0, -1.0), (1, -2.0), (2, -0.5), (3, 0.0)]
    assert registry.curve(nested.info.run_id, "alpha.two/1") == [(0, 0.0), (1, 0.5), (2, 0.5), (3, 1.0)]
    assert {one.info.status for one in _runs(registry)} == {"FINISHED"}


def test_no_run_is_left_running_if_candidates_cannot_be_logged(tmp_path: Path) -> None:
    registry = ExpertRegistry(root=tmp_path)
    # MLflow takes no such name of a metric.
    with pytest.raises(RegistryError):
        _register(registry, "one/1", "two+three/1")
    assert [one.info.status for one in _runs(registry)] == ["FAILED", "FAILED"]
    assert not registry.list()
