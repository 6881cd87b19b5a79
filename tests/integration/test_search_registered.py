"""What a search registers, from its spec to a version that is served; and what happens if it is started again.

The search runs on real actors, because the whole command is meant: it ships the base that it opened itself.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zfleet.config.search import SearchSpec, SpaceSpec
from zfleet.config.specs import ResourceSpec
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import ExpertNotFound
from zfleet.models.bundle import BaseBundle
from zfleet.svf.zvector import ZVector
from zfleet_jobs.code_version import code_version
from zfleet_jobs.search import mixtures
from zfleet_jobs.search import run as search_run
from zfleet_jobs.search.mixtures import finished_mixtures
from zfleet_jobs.search.run import run_search
from zfleet_registry.provenance import Provenance
from zfleet_registry.registry import ExpertRegistry


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("something was started for a search that finished before")


def test_the_winner_is_registered_with_its_parents(
    ray_cluster: None,
    packed: BaseBundle,
    two_experts: dict[str, ZVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    registry = ExpertRegistry()
    for name, z in two_experts.items():
        registry.register(name, z, Provenance.of(z), base_name="tiny")
    words = ("abc", "xyz", "ab", "cd", "efg", "hi", "jk", "lm", "nop", "qr", "stu", "vw")
    rows = [{"prompt": f"flip {word}", "answer": word[::-1]} for word in words]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = SearchSpec(
        base=packed.spec,
        experts=("one", "two/1"),
        # Seven of the rows are for training.
        task=TaskSpec(jsonl="rows.jsonl", max_tokens=4, test_fraction=0.4),
        name="exam",
        shots=3,
        selection=2,
        test_samples=4,
        population=6,
        generations=2,
        racing=False,
        space=SpaceSpec(alphas="layer"),
        resources=ResourceSpec(cpus=8),
    )
    result = run_search(spec)
    assert result.reference == "exam/1"
    assert list(result.alphas) == ["one/1", "two/1"]
    assert result.best_single in result.alphas
    assert (result.shots, result.selection, result.test, result.whole_test) == (3, 2, 4, None)
    assert result.accuracy is not None
    assert result.over_base is not None
    assert 0 <= result.accuracy.mean <= 1
    assert len(result.batch_rows) == result.trials
    # Two chunks of each population, of three candidates on three shots.
    assert max(result.batch_rows) == 9
    found = registry.resolve("exam@champion", packed.slug)
    assert found.reference == result.reference
    assert found.z_digest == result.z_digest == registry.load(found).digest
    assert [parent.z_digest for parent in found.provenance.parents] == [z.digest for z in two_experts.values()]
    alphas = {parent.reference: parent.alpha for parent in found.provenance.parents}
    assert alphas == result.alphas
    assert all(isinstance(alpha, tuple) and len(alpha) == 2 for alpha in alphas.values())
    assert len(registry.curve(found.run_id, "best")) == 2
    assert found.provenance.metrics["test_accuracy_winner"] == result.accuracy.mean
    # A nested run has every candidate as a step.
    (nested,) = registry._client.search_runs(
        [registry._client.get_run(found.run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{found.run_id}'",
    )
    candidates = registry.curve(nested.info.run_id, "value")
    assert len(candidates) > 2 * 6
    assert len(registry.curve(nested.info.run_id, "alpha.one/1")) == len(candidates)
    assert found.provenance.code_version == code_version()
    # Again: no search, no cluster, no second version; and an alias that was moved stays where it is.
    registry.drop_alias(found, "champion")
    monkeypatch.setattr(mixtures, "run_tune", _refuse)
    monkeypatch.setattr(search_run, "cluster", _refuse)
    assert run_search(spec) == replace(result, seconds=0.0)
    assert [(v.version, v.aliases) for v in registry.list(packed.slug) if v.name == "exam"] == [(1, ())]

    # An expert that is deleted while a search runs is missed at its end.
    def found_and_deleted(*arguments: Any) -> Any:
        registry._client.delete_model_version(f"{packed.slug}.two", "1")
        return finished(*arguments)

    finished = finished_mixtures
    monkeypatch.setattr(search_run, "finished_mixtures", found_and_deleted)
    with pytest.raises(ExpertNotFound, match="expert two/1 was deleted while the search ran"):
        run_search(spec)
