"""A project that was moved or copied: it shows, trains, searches and serves where it is, and writes nowhere else.

What a registry does that was moved is in tests/unit/registry. Here are real jobs and a real service, because each part
could write to the old place.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from openai import OpenAI

from zfleet.config.learner import LearnerSpec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import BaseSpec, EngineSpec, ExpertSpec, TrainSpec
from zfleet.config.task_specs import TaskSpec
from zfleet_cli.demo.lab.served import free_port
from zfleet_jobs.search.run import run_search
from zfleet_jobs.train.run import run_train
from zfleet_registry import ExpertRegistry
from zfleet_serve.run import start_service

ENGINE = EngineSpec(slots=16)


def digests(folder: Path) -> dict[str, str]:
    """{path: sha256} of all files under a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def train_spec(base: BaseSpec, *names: str) -> TrainSpec:
    return TrainSpec(
        base=base,
        run="skills",
        experts=tuple(ExpertSpec(name=name, task=TaskSpec(lab=name)) for name in names),
        learner=LearnerSpec(steps=2, prompts_per_step=4),
        engine=ENGINE,
        eval_samples=4,
    )


def search_spec(base: BaseSpec) -> SearchSpec:
    return SearchSpec(
        base=base,
        experts=("reverse", "sort"),
        task=TaskSpec(lab="exam_trained"),
        name="mixed",
        shots=2,
        selection=2,
        test_samples=4,
        population=4,
        generations=2,
        engine=ENGINE,
    )


@pytest.mark.drill
def test_a_moved_or_copied_project_goes_on(
    ray_cluster: None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    base = BaseSpec(model=str(tiny_folder), name="tiny")
    old, copy, new = (tmp_path / name for name in ("old", "copy", "new"))
    old.mkdir()
    monkeypatch.chdir(old)
    trained = run_train(train_spec(base, "reverse", "sort"))
    found = run_search(search_spec(base))

    shutil.copytree(old, copy)
    before = digests(old)
    _goes_on(copy, base, {one.name: one.z_digest for one in trained} | {"mixed": found.z_digest}, monkeypatch)
    assert digests(old) == before

    old.rename(new)
    before = digests(copy)
    _goes_on(new, base, {one.name: one.z_digest for one in trained} | {"mixed": found.z_digest}, monkeypatch)
    assert digests(copy) == before
    assert not old.exists()


def _goes_on(project: Path, base: BaseSpec, zs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is found again, and what is new goes beside it."""
    monkeypatch.chdir(project)
    again = run_train(train_spec(base, "reverse", "sort"))
    assert {one.name: (one.z_digest, one.seconds) for one in again} == {
        name: (zs[name], 0) for name in ("reverse", "sort")
    }
    assert (run_search(search_spec(base)).z_digest, run_search(search_spec(base)).seconds) == (zs["mixed"], 0)
    (*_, added) = run_train(train_spec(base, "reverse", "sort", "add"))
    assert list((project / "runs" / "train" / "skills").glob("add-*"))
    registry = ExpertRegistry()
    for name, digest in (zs | {"add": added.z_digest}).items():
        (version,) = [one for one in registry.list() if one.name == name]
        assert registry.load(version).digest == digest
        assert (project / "runs/registry/artifacts" / version.run_id / "artifacts" / version.artifact).is_file()

    service = start_service(ServeSpec(base=base, port=free_port(), engine=ENGINE))
    try:
        with OpenAI(base_url=f"{service.url}/v1", api_key="not-needed", max_retries=0) as client:
            for name, digest in (zs | {"add": added.z_digest}).items():
                answer = client.completions.create(model=f"tiny:{name}", prompt="flip bca", max_tokens=2)
                assert answer.model_dump()["zfleet"]["z"] == digest
    finally:
        service.stop()
