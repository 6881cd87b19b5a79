"""An experiment that was deleted in MLflow is refused before a job does anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from zfleet.config.search import SearchSpec
from zfleet.config.specs import BaseSpec
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import RegistryError
from zfleet_jobs.search.run import run_search
from zfleet_jobs.testing.training import contains, training_place
from zfleet_jobs.train import run
from zfleet_jobs.train.plan import experiment_of
from zfleet_jobs.train.run import run_train
from zfleet_registry import ExpertRegistry


def _delete(registry: ExpertRegistry, experiment: str) -> str:
    registry.start_run("before", experiment=experiment)
    found = registry._client.get_experiment_by_name(experiment)
    assert found is not None
    registry._client.delete_experiment(found.experiment_id)
    return f"mlflow experiments restore --experiment-id {found.experiment_id}"


def test_a_search_and_a_training_are_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "cluster", lambda _: pytest.fail("a cluster was started"))
    with training_place(tmp_path, tiny_folder, "") as place:
        restore = _delete(place.registry, "search")
        # The base is not there either: nobody looked for it.
        base = BaseSpec(model=str(tmp_path / "nowhere"))
        task = TaskSpec(lab="exam_trained")
        spec = SearchSpec(base=base, experts=("one",), task=task, name="exam", registry=place.registry.address)
        with pytest.raises(RegistryError, match=r"experiment 'search' .* was deleted in MLflow") as caught:
            run_search(spec)
        assert restore in caught.value.remedy

        restore = _delete(place.registry, experiment_of(place.slug))
        with pytest.raises(RegistryError, match=r"experiment 'zfleet/tiny-.* was deleted in MLflow") as caught:
            run_train(place.spec({"one": contains("a")}))
        assert restore in caught.value.remedy
