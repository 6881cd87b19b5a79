"""The whole loop in small: train, register, search, serve, ask; each part reads only what the one before left.

With real processes, because that is what is shown: that the parts of the real thing fit together.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import OpenAI

from zfleet.config.learner import LearnerSpec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import BaseSpec, EngineSpec, ExpertSpec, ResourceSpec, TrainSpec, VllmSpec
from zfleet.config.task_specs import TaskSpec
from zfleet_cli.demo.lab.served import free_port
from zfleet_jobs.search.run import run_search
from zfleet_jobs.train.run import run_train
from zfleet_registry import ExpertRegistry
from zfleet_serve.run import start_service

VLLM = EngineSpec(kind="vllm", slots=16, vllm=VllmSpec(cache_gib=0.25))


@pytest.mark.parametrize(
    "engine",
    [EngineSpec(slots=16), pytest.param(VLLM, marks=[pytest.mark.vllm, pytest.mark.drill])],
    ids=["torch", "vllm"],
)
def test_from_training_to_an_answer(
    ray_cluster: None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineSpec
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    base = BaseSpec(model=str(tiny_folder), name="tiny")
    trained = run_train(
        TrainSpec(
            base=base,
            experts=tuple(ExpertSpec(name=name, task=TaskSpec(lab=name)) for name in ("reverse", "kind")),
            learner=LearnerSpec(steps=2, prompts_per_step=4),
            cohort=2,
            engine=engine,
            eval_samples=4,
        )
    )
    assert [expert.reference for expert in trained] == ["reverse/1", "kind/1"]
    found = run_search(
        SearchSpec(
            base=base,
            experts=("reverse", "kind/1"),
            task=TaskSpec(lab="exam_trained"),
            name="mixed",
            shots=2,
            selection=2,
            test_samples=4,
            population=4,
            generations=2,
            resources=ResourceSpec(cpus=8 if engine.kind == "torch" else 4),  # one actor
            engine=engine,
        )
    )
    assert (found.reference, found.shots, found.selection, found.test) == ("mixed/1", 2, 2, 4)
    assert found.trials == len(found.batch_rows) >= 4
    registry = ExpertRegistry()
    (version,) = [v for v in registry.list() if v.name == "mixed"]
    assert {parent.reference for parent in version.provenance.parents} == {"reverse/1", "kind/1"}

    service = start_service(ServeSpec(base=base, port=free_port(), engine=engine))
    try:
        client = OpenAI(base_url=f"{service.url}/v1", api_key="not-needed", max_retries=0)
        names = {model.id for model in client.models.list()}
        assert names == {"tiny", "tiny:auto", "tiny:reverse", "tiny:kind", "tiny:mixed"}
        answer = client.chat.completions.create(
            model="tiny:mixed", messages=[{"role": "user", "content": "flip bca"}], temperature=0, max_tokens=4
        )
        told = answer.model_dump()["zfleet"]
        assert told["z"] == found.z_digest
        assert {part["expert"]: part["alpha"] for part in told["mixture"]} == {
            reference.partition("/")[0]: alpha for reference, alpha in found.alphas.items()
        }
    finally:
        service.stop()
