"""``zfleet calibrate`` on the tiny base, whose engine runs in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from zfleet.adapt.measure import decide_all
from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.load import parse_spec
from zfleet.config.specs import BaseSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import DispatcherError, ExpertNotFound, RegistryError, TaskError, WrongBase
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import lab_task
from zfleet.tasks.task import Sample, Task
from zfleet.testing.parity import random_z
from zfleet_jobs.calibrate.data import CalibrationData, calibrates
from zfleet_jobs.calibrate.run import CalibrateResult, run_calibrate
from zfleet_registry import ExpertRegistry, Provenance

LABELS = ("reverse", "sort", "add")
gives_hidden_states = pytest.mark.skipif(
    not hasattr(TorchEngine, "hidden_state"), reason="the embedded engine gives no hidden states"
)


@dataclass(frozen=True)
class Project:
    """A registry with experts for the tiny base.

    Attributes:
        registry: The registry.
        uri: Its URI.
        bundle: The base.
    """

    registry: ExpertRegistry
    uri: str
    bundle: BaseBundle

    def spec(self, dispatcher: str, **changes: Any) -> CalibrateSpec:
        values: dict[str, Any] = {
            "name": f"by-{dispatcher}",
            "base": {"model": str(self.bundle.model), "name": self.bundle.name},
            "dispatcher": dispatcher,
            "labels": {label: {"expert": label, "task": {"lab": label}} for label in LABELS},
            "examples": 0,
            "prompts": 60,
            "risk": 0.3,
            "engine": {"kind": "torch", "slots": 64},
            "registry": self.uri,
        }
        return parse_spec(values | changes, CalibrateSpec)

    def run(self, dispatcher: str, **changes: Any) -> CalibrateResult:
        return run_calibrate(self.spec(dispatcher, **changes))


@pytest.fixture(scope="module")
def project(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZFLEET_CACHE", str(root / "cache"))
        bundle = pack_base(BaseSpec(model=str(tiny_folder)))
        registry = ExpertRegistry(root=root / "registry")
        factors = bundle.open().factors
        for seed, name in enumerate((*LABELS, "kind")):
            register(registry, name, random_z(factors, seed), bundle)
        yield Project(registry, f"sqlite:///{root / 'registry' / 'mlflow.db'}", bundle)


def register(registry: ExpertRegistry, name: str, z: ZVector, bundle: BaseBundle) -> None:
    registry.register(name, z, Provenance.of(z), base_name=bundle.name, alias="champion")


def test_a_classifier_is_calibrated_measured_and_registered(project: Project) -> None:
    result = project.run("classifier", classifier="kind")
    assert (result.reference, result.kind, result.labels) == ("by-classifier/1", "classifier", LABELS)
    assert result.measured is not None
    assert result.facts is not None
    assert result.measured.n + result.facts.prompts == 180
    assert result.facts.risk_asked == 0.3
    version = project.registry.resolve("by-classifier@champion", project.bundle.slug)
    assert version.is_dispatcher
    assert {parent.reference for parent in version.provenance.parents} == {"reverse/1", "sort/1", "add/1", "kind/1"}
    assert version.provenance.metrics["ece"] == result.measured.ece
    assert version.provenance.data_digest == result.facts.data_digest
    document = project.registry.load_dispatcher(version).document
    assert document.facts == result.facts
    assert document.steps[0].asks == "kind/1"
    assert document.routes["sort"] == {"sort/1": 1.0}
    assert document.steps[0].calibration.threshold == result.thresholds[0]
    assert project.run("classifier", classifier="kind").reference == "by-classifier/1", "the same is not stored again"
    assert project.run("classifier", classifier="kind", risk=0.4).reference == "by-classifier/2"


def test_what_is_registered_decides_as_what_was_measured(project: Project) -> None:
    result = project.run("soft", classifier="kind")
    stored = project.registry.load_dispatcher(project.registry.resolve(result.reference, project.bundle.slug))
    tokenizer, data = project.bundle.tokenizer(), lab_data(prompts=60)
    template = lab_task("sort").template
    dispatcher = stored.open(lambda prompt: template.render(tokenizer, prompt))
    with SyncEngine(TorchEngine(project.bundle.open(), project.spec("soft").engine)) as engine:
        engine.put_z(project.registry.load(project.registry.resolve("kind", project.bundle.slug)))
        decisions = engine.run(decide_all(dispatcher, engine.engine, [one.prompt for one in data.test]))
    right = [decision.label == one.label for decision, one in zip(decisions, data.test, strict=True)]
    assert result.measured is not None
    assert result.measured.accuracy == sum(right) / len(right)


def test_tasks_need_no_calibration(project: Project) -> None:
    result = project.run("few_shot", labels={}, tasks={"exam": "sort", "quiz": "add/1"})
    assert (result.kind, result.labels, result.facts, result.measured) == ("few_shot", ("exam", "quiz"), None, None)
    stored = project.registry.load_dispatcher(project.registry.resolve("by-few_shot", project.bundle.slug))
    assert stored.document.tasks == {"exam": {"sort/1": 1.0}, "quiz": {"add/1": 1.0}}


def test_a_cascade_has_a_threshold_for_each_step_that_looks_at_prompts(project: Project) -> None:
    steps = ["few_shot", "prompt", "classifier"]
    result = project.run("cascade", steps=steps, classifier="kind", tasks={"exam": "sort"})
    assert (result.kind, len(result.thresholds)) == ("cascade", 2)
    assert result.measured is not None
    assert result.measured.n > 60


@gives_hidden_states
def test_nearest_tells_labels_apart_and_learns_a_new_one(project: Project) -> None:
    two = {label: {"expert": label, "task": {"lab": label}} for label in ("reverse", "add")}
    first = project.run("nearest", labels=two, examples=60)
    assert first.measured is not None
    assert first.measured.accuracy > 0.8
    new = {"sort": {"expert": "sort", "task": {"lab": "sort"}}}
    second = project.run("nearest", name="more", labels=new, examples=20, extend="by-nearest")
    assert second.labels == ("add", "reverse", "sort")
    assert second.facts is None
    stored = project.registry.load_dispatcher(project.registry.resolve("more", project.bundle.slug))
    assert stored.document.facts == first.facts
    assert set(stored.document.experts) == {"reverse/1", "add/1", "sort/1"}


@gives_hidden_states
def test_a_classifier_may_compare_prompts_with_examples(project: Project) -> None:
    result = project.run("classifier", name="compares", classifier="kind", examples=30)
    stored = project.registry.load_dispatcher(project.registry.resolve(result.reference, project.bundle.slug))
    assert stored.examples is not None
    assert len(stored.examples.points) == 90


def test_an_expert_that_cannot_be_used_is_named(project: Project, tiny_factors: Factors) -> None:
    other = replace(random_z(tiny_factors, 9), base=project.bundle.fingerprint, factors="f" * 64)
    register(project.registry, "stranger", other, project.bundle)
    labels = {"sort": {"expert": "stranger", "task": {"lab": "sort"}}}
    with pytest.raises(WrongBase, match=r"stranger/1 was trained on factors ffffffffffff"):
        project.run("prompt", labels=labels)
    with pytest.raises(ExpertNotFound, match="no expert 'gone'"):
        project.run("prompt", labels={"sort": {"expert": "gone", "task": {"lab": "sort"}}})
    project.run("few_shot", labels={}, tasks={"exam": "sort", "quiz": "add/1"})
    with pytest.raises(RegistryError, match="by-few_shot/1 is a dispatcher"):
        project.run("prompt", labels={"sort": {"expert": "by-few_shot", "task": {"lab": "sort"}}})
    with pytest.raises(RegistryError, match="'sort' is an expert"):
        project.run("few_shot", name="sort", labels={}, tasks={"exam": "sort"})


def test_too_few_prompts_are_an_error(project: Project) -> None:
    with pytest.raises(DispatcherError, match="distinct validation prompts"):
        project.run("prompt", prompts=5)


def lab_data(examples: int = 0, prompts: int = 500) -> CalibrationData:
    return CalibrationData.of({label: lab_task(label) for label in LABELS}, examples, prompts)


def test_no_prompt_is_in_two_parts() -> None:
    data = lab_data(examples=50)
    examples = {prompt for prompts in data.examples.values() for prompt in prompts}
    validation, test = {one.prompt for one in data.validation}, {one.prompt for one in data.test}
    assert len(examples) == 150
    assert len(validation) + len(test) == 1500
    assert not examples & validation
    assert not examples & test
    assert not validation & test
    assert 600 < len(validation) < 900
    assert all(map(calibrates, validation))
    assert not any(map(calibrates, test))


def test_a_prompt_with_two_labels_or_an_image_is_refused() -> None:
    task = lab_task("sort")
    with pytest.raises(TaskError, match="is a held-out prompt of label 'a' and a held-out prompt of label 'b'"):
        CalibrationData.of({"a": task, "b": task}, 0, 10)
    with pytest.raises(TaskError, match="training prompt of label 'a' and a held-out prompt of label 'a'"):
        CalibrationData.of({"a": replace(task, test=task.train)}, 10, 10)
    seen = Task("seen", (), (Sample("s/1", "what is it", images=("a.png",)),), task.template, task.reward, 4)
    with pytest.raises(TaskError, match="sample s/1 has images"):
        CalibrationData.of({"a": seen}, 0, 10)
