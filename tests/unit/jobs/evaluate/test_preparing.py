"""What is checked of an evaluation before anything is started, and what its run's folder is named by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import DispatcherError, ExpertNotFound, InvalidZ, RegistryError, SpecError, TaskError, WrongBase
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet_jobs.evaluate.dispatchers import bare_dispatcher
from zfleet_jobs.evaluate.prepared import expert_names
from zfleet_registry import Provenance


def test_experts_tasks_and_splits_are_ready(project: Any) -> None:
    ready = project.ready(dispatchers={"asks": {"classifier": "turn"}})
    prepared = ready.prepared
    assert list(prepared.experts) == ["flip/1", "turn/1"]
    assert prepared.own_tasks == {"flip/1": frozenset({"flip"}), "turn/1": frozenset({"turn"})}
    assert {name: (len(parts.selection), len(parts.test)) for name, parts in prepared.splits.items()} == {
        "flip": (5, 8),
        "turn": (5, 8),
    }
    assert prepared.own(prepared.splits["turn"].test[0]) == "turn/1"
    assert set(prepared.reached) == {"turn/1"}
    assert ready.folder.parent == project.folder / "runs"


def test_the_folder_is_named_by_all_that_the_outcome_depends_on(project: Any) -> None:
    folder = project.ready().folder
    assert folder.name.startswith("small-")
    faster = project.ready(workers=1, engine={"kind": "torch", "slots": 4}, resources={"torch_threads": 2})
    assert faster.folder == folder
    changes: tuple[dict[str, Any], ...] = (
        {"draws": [0]},
        {"eval_samples": 7},
        {"experts": ["turn", "flip"]},
        {"dispatchers": {"asks": {}}},
        {"tasks": {"flip": project.task("flip", max_tokens=5), "turn": project.task("turn")}},
    )
    for change in changes:
        assert project.ready(**change).folder != folder


def test_another_version_of_an_expert_is_another_run(make_project: Callable[[], Any]) -> None:
    project = make_project()
    folder = project.ready().folder
    project.register("flip", random_z(project.factors, 9), "flip")
    assert project.ready().folder != folder
    assert project.ready(experts=["flip/1", "turn"]).prepared.experts.keys() == {"flip/1", "turn/1"}


def test_an_expert_of_another_base_is_refused(project: Any) -> None:
    z = random_z(project.factors, 5)
    other = ZVector(z.values, "e" * 64, z.factors, z.targets)
    version = project.register("strange", other, base_name="other")
    with pytest.raises(WrongBase, match=f"expert {version.qualified} is of base eeeeeeeeeeee") as caught:
        project.ready(experts=["flip", version.qualified])
    assert caught.value.remedy


def test_an_expert_on_other_factors_is_refused(make_project: Callable[[], Any]) -> None:
    project = make_project()
    z = random_z(project.factors, 5)
    project.register("old", ZVector(z.values, z.base, "d" * 64, z.targets))
    with pytest.raises(WrongBase, match="is of factors dddddddddddd"):
        project.ready(experts=["flip", "old"])


def test_experts_with_other_matrices_do_not_mix(make_project: Callable[[], Any]) -> None:
    project = make_project()
    z = random_z(project.factors, 5)
    few = dict(list(z.values.items())[:2])
    project.register("few", ZVector(few, z.base, z.factors, z.targets))
    with pytest.raises(InvalidZ, match="other target matrices"):
        project.ready(experts=["flip", "few"])


def test_an_expert_that_there_is_not_is_refused(project: Any) -> None:
    with pytest.raises(ExpertNotFound, match="no expert 'spin'"):
        project.ready(experts=["flip", "spin"])


def test_one_version_under_two_names_is_refused(project: Any) -> None:
    with pytest.raises(SpecError, match=r"experts name flip/1 twice \(flip/1\)"):
        project.ready(experts=["flip", "flip/1"])


def test_a_prompt_with_which_a_text_does_not_fit_is_refused(project: Any) -> None:
    with pytest.raises(TaskError, match=r"with prompts\.long, sample \S+ of task flip does not fit") as caught:
        project.ready(prompts={"long": "{prompt} " + "a " * 200}, against="best-prompt")
    assert "shorten that prompt" in caught.value.remedy


def test_a_label_without_an_expert_is_refused(project: Any) -> None:
    with pytest.raises(SpecError, match=r"dispatchers\.asks\.labels gives 'x' to 'spin', which is no expert"):
        project.ready(dispatchers={"asks": {"labels": {"x": "spin"}}})


def test_shots_in_another_tasks_test_are_refused(make_project: Callable[[], Any]) -> None:
    project = make_project()
    project.task("flip")
    other = project.folder / "other.jsonl"
    rows = [json.loads(line) for line in (project.folder / "flip.jsonl").read_text().splitlines()]
    other.write_text("".join(json.dumps(row | {"note": "copied"}) + "\n" for row in rows))
    tasks = {"flip": project.task("flip"), "other": {**project.task("other"), "test_fraction": 0.9}}
    with pytest.raises(TaskError, match="shots, selection and test must be different prompts"):
        project.ready(tasks=tasks, eval_samples=100)


def test_a_registered_dispatcher_brings_its_experts(make_project: Callable[[], Any]) -> None:
    project = make_project()
    prepared = project.ready(dispatchers={"asks": {}}).prepared
    stored = bare_dispatcher(
        project.spec(dispatchers={"asks": {}}).dispatchers["asks"],
        prepared.experts,
        expert_names(prepared.experts),
        None,
    )
    project.registry.register("router", stored, _provenance(stored), base_name=project.base.name)
    ready = project.ready(dispatchers={"router": "router"}, experts=["flip"])
    assert ready.prepared.dispatchers["router"].digest == stored.digest
    assert set(ready.prepared.reached) == {"flip/1", "turn/1"}
    # A new version of an expert is another one than the dispatcher was calibrated with.
    strange = replace(stored, document=stored.document.model_copy(update={"experts": {"flip/1": "0", "turn/1": "1"}}))
    project.registry.register("wrong", strange, _provenance(strange), base_name=project.base.name)
    with pytest.raises(DispatcherError, match="the dispatcher was calibrated with expert flip/1 of z 0"):
        project.ready(dispatchers={"router": "wrong"})


def test_a_search_can_begin_with_a_registered_dispatcher(make_project: Callable[[], Any]) -> None:
    project = make_project()
    prepared = project.ready(dispatchers={"asks": {}}).prepared
    spec = project.spec(dispatchers={"asks": {}}).dispatchers["asks"]
    asked = ("turn/1", prepared.experts["turn/1"])
    stored = bare_dispatcher(spec, prepared.experts, expert_names(prepared.experts), asked)
    project.registry.register("router", stored, _provenance(stored), base_name=project.base.name)
    searches = {"begins": {"space": {"prior": "router"}}, "plain": {}}
    ready = project.ready(searches=searches)
    (prior,) = ready.prepared.priors.values()
    assert (prior.reference, prior.dispatcher.digest) == ("router/1", stored.digest)
    assert [z.digest for z in prior.asked] == [prepared.experts["turn/1"].digest]
    with pytest.raises(SpecError, match=r"space\.prior is router/1, which routes to turn/1"):
        project.ready(searches=searches, experts=["flip"])
    with pytest.raises(RegistryError, match=r"flip/1 is an expert, not a dispatcher"):
        project.ready(searches={"begins": {"space": {"prior": "flip"}}})
    with pytest.raises(ExpertNotFound):
        project.ready(searches={"begins": {"space": {"prior": "nobody"}}})


def _provenance(stored: StoredDispatcher) -> Provenance:
    return Provenance.of_dispatcher(stored, spec="", code_version="", metrics={})
