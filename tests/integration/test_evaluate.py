"""Evaluations on real Ray workers and a tiny base.

What is measured and how it is counted is in tests/unit/jobs/evaluate, on the fake engine. Here are real workers,
because Ray decides when they start and end, and a real engine, because its batches are what ways share.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.gate import GateSpec
from zfleet.config.load import dump_spec, parse_spec
from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import ExpertNotFound
from zfleet.evaluate.cells import CellKey
from zfleet.evaluate.graded import evaluate
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.testing.parity import random_z
from zfleet_jobs.evaluate import run as evaluate_run
from zfleet_jobs.evaluate.answers import StageProgress
from zfleet_jobs.evaluate.cell_files import read_answers
from zfleet_jobs.evaluate.evidence import measured_evidence
from zfleet_jobs.evaluate.preparing import get_ready
from zfleet_jobs.evaluate.results import read_results
from zfleet_jobs.evaluate.run import Evaluated, run_evaluate
from zfleet_registry import ExpertRegistry, Provenance
from zfleet_registry.promotion import promote

VOWELS = {"kind": "regex", "value": r"^\s*[aeiou02468]"}
"""A reward that a random base gets right sometimes, so that ways differ."""
EXPERTS = ("flip", "turn")


def ignore(_: StageProgress) -> None:
    """Take progress, and do nothing."""


@pytest.fixture(scope="module")
def base(ray_cluster: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseBundle]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZFLEET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield pack_base(BaseSpec(model=str(tiny_folder)))


@pytest.fixture(scope="module")
def make_spec(base: BaseBundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EvaluateSpec]:
    """``make_spec(key=value)``: two tasks, two experts, every kind of way, in a project of its own."""

    def make(**values: Any) -> EvaluateSpec:
        folder = tmp_path_factory.mktemp("project")
        registry = ExpertRegistry(f"sqlite:///{folder}/registry/mlflow.db", folder / "registry")
        tasks = {}
        for seed, name in enumerate(EXPERTS):
            z = random_z(base.factor_folder().load(), seed)
            registry.register(name, z, Provenance.of(z, task=name), base_name=base.name)
            rows = [{"prompt": f"{name} {word}{place}", "kind": name} for place in range(20) for word in ("ab", "cd")]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            tasks[name] = {
                "jsonl": str(folder / f"{name}.jsonl"),
                "reward": VOWELS,
                "max_tokens": 4,
                "test_fraction": 0.3,
            }
        data = {
            "name": "small",
            "base": {"model": str(base.model)},
            "tasks": tasks,
            "experts": EXPERTS,
            "prompts": {"plain": "{prompt}", "twice": "{prompt} {prompt}"},
            "searches": {"cem": {"population": 5, "generations": 2, "selection": 2}},
            "dispatchers": {"asks": {}},
            "shots": [3],
            "draws": [0, 1],
            "selection_samples": 3,
            "eval_samples": 8,
            "engine": {"kind": "torch", "slots": 16, "z_rows": 16},
            "workers": 2,
            "storage": str(folder / "runs"),
            "registry": f"sqlite:///{folder}/registry/mlflow.db",
        }
        return parse_spec(data | values, EvaluateSpec)

    return make


@pytest.fixture(scope="module")
def spec(make_spec: Callable[..., EvaluateSpec]) -> EvaluateSpec:
    return make_spec()


@pytest.fixture(scope="module")
def evaluated(spec: EvaluateSpec) -> Evaluated:
    """A finished evaluation."""
    return run_evaluate(spec, on_progress=ignore)


def test_every_way_is_measured_and_the_report_is_there(evaluated: Evaluated) -> None:
    results = evaluated.results
    ways = ["base", "best-prompt", "flip/1", "turn/1", "uniform", "best-single", "cem", "asks", "oracle"]
    assert [(entry.task, entry.way) for entry in results.matrix.entries] == [(t, w) for t in EXPERTS for w in ways]
    folder = Path(results.run.place)
    assert {"report.html", "gains.png", "convergence.png", "evaluation.json", "spec.yaml"} <= {
        path.name for path in folder.iterdir()
    }
    assert len(results.traces) == 4
    assert read_results(results.run).matrix == results.matrix


def test_answers_are_those_of_an_engine_that_does_nothing_else(
    evaluated: Evaluated, spec: EvaluateSpec, base: BaseBundle
) -> None:
    """In a batch with all other ways, an expert answers as it does alone."""
    prepared = get_ready(spec, ExpertRegistry(spec.registry)).prepared
    with SyncEngine(TorchEngine(base.open(), EngineSpec(slots=16))) as engine:
        for task in EXPERTS:
            test = prepared.splits[task].test
            alone = evaluate(
                engine, base.tokenizer(), prepared.tasks[task], test, engine.put_z(prepared.experts["turn/1"])
            )
            key = CellKey(task, "turn/1")
            rows = read_answers(evaluated.results.run, [key])[key]
            assert [row["completion"] for row in rows] == list(alone.texts)
            assert [row["reward"] for row in rows] == list(alone.graded)


def test_a_finished_evaluation_needs_no_cluster(
    evaluated: Evaluated, spec: EvaluateSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was started for an evaluation that finished before")

    for name in ("cluster", "ship", "worker_pool", "search_mixtures"):
        monkeypatch.setattr(evaluate_run, name, refuse)
    again = run_evaluate(spec, on_progress=ignore)
    assert again.results.matrix == evaluated.results.matrix
    assert (again.run_id, again.results.run) == (evaluated.run_id, evaluated.results.run)
    assert again.results.about.seconds == evaluated.results.about.seconds


def test_an_expert_that_is_deleted_during_the_run_does_not_disturb_it(make_spec: Callable[..., EvaluateSpec]) -> None:
    spec = make_spec(searches={}, prompts={})
    registry = ExpertRegistry(spec.registry)
    (version,) = (version for version in registry.list() if version.name == "turn")

    def delete(progress: StageProgress) -> None:
        if progress.stage == "answers" and not progress.done:
            registry._client.delete_model_version(f"{version.base_slug}.turn", "1")

    evaluated = run_evaluate(spec, on_progress=delete)
    assert "turn/1" in evaluated.results.about.experts
    assert all(entry.n == 8 for entry in evaluated.results.matrix.entries)
    with pytest.raises(ExpertNotFound):
        run_evaluate(spec, on_progress=ignore)


def test_a_worker_that_dies_is_started_again(make_spec: Callable[..., EvaluateSpec]) -> None:
    spec = make_spec(searches={}, prompts={}, eval_samples=9, engine={"kind": "torch", "slots": 2})
    killed: list[int] = []

    def kill(progress: StageProgress) -> None:
        if progress.stage == "answers" and not killed:
            workers = [
                one.pid for one in psutil.Process().children(recursive=True) if one.name().startswith("ray::Work")
            ]
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])

    evaluated = run_evaluate(spec, on_progress=kill)
    assert killed
    assert {entry.n for entry in evaluated.results.matrix.entries} == {9}


def test_two_versions_are_evaluated_for_a_gate(
    make_spec: Callable[..., EvaluateSpec], base: BaseBundle, tmp_path: Path
) -> None:
    """Whatever experts the spec names, the candidate and the present version are measured."""
    spec = make_spec(prompts={}, searches={}, dispatchers={}, draws=[0])
    file = tmp_path / "evaluate.yaml"
    file.write_text(dump_spec(spec))
    registry = ExpertRegistry(spec.registry)
    present = registry.set_alias(registry.resolve("flip/1", base.slug), "champion")
    z = random_z(base.factor_folder().load(), 7)
    candidate = registry.register("flip", z, Provenance.of(z), base_name=base.name)
    evidence = measured_evidence(file, spec.registry, candidate, present)
    assert (evidence.candidate, evidence.present) == (candidate.z_digest, present.z_digest)
    assert {name: task.prompts for name, task in evidence.tasks.items()} == dict.fromkeys(EXPERTS, 8)
    for gain, alias in ((100.0, 1), (-100.0, 2)):
        gate = GateSpec(tasks=("flip", "turn"), gain=gain)
        promote(registry, candidate, "champion", evidence=evidence, gate=gate)
        assert registry.resolve("flip@champion", base.slug).version == alias
