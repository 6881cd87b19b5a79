"""LoRA as a way: what an experiment stored is taken over for the very same prompts, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from zfleet.config.compare import CompareSpec
from zfleet.config.load import parse_spec
from zfleet.errors import SpecError
from zfleet.evaluate.cells import CellKey
from zfleet.models.bundle import pack_with_targets
from zfleet.tasks.build import build_task
from zfleet_jobs.compare.run import trials_of
from zfleet_jobs.compare.stored import open_storage, store_spec, stored_trials
from zfleet_jobs.evaluate.lora import lora_cells, lora_trainings
from zfleet_jobs.testing.outcomes import outcomes_of


def experiment(project: Any, tasks: Sequence[str], finished: bool = True, **task: Any) -> None:
    """Store an experiment as ``zfleet compare`` does: its spec, and the outcome of each training."""
    data = {
        "base": {"model": str(project.base.model)},
        "tasks": {name: project.task(name, **task) for name in tasks},
        "methods": {"svf": {}, "lora-r2": {"adapter": "lora", "rank": 2}},
        "against": "svf",
        "seeds": [0, 1],
        "eval_samples": 20,
        "storage": str(project.folder / "experiment"),
    }
    spec = parse_spec(data, CompareSpec)
    storage = open_storage(spec)
    store_spec(storage, spec)
    built = {name: build_task(one) for name, one in spec.tasks.items()}
    stored = stored_trials(storage, spec, trials_of(spec), pack_with_targets(spec.base, {"all"}), built)
    for trial, place in stored.items() if finished else ():
        rewards = [1.0 if (number + trial.seed) % 2 else -1.0 for number in range(20)]
        (outcome,) = outcomes_of(trial.method, [rewards], task=trial.task)
        place.store(replace(outcome, seed=trial.seed))


def lora(project: Any, **values: str) -> dict[str, str]:
    return {"experiment": str(project.folder / "experiment"), "method": "lora-r2"} | values


def test_rewards_are_taken_over_seed_by_seed(make_project: Any, caplog: pytest.LogCaptureFixture) -> None:
    project = make_project()
    experiment(project, ["flip"])
    ready = project.ready(lora=lora(project))
    with caplog.at_level(logging.WARNING):
        trainings = lora_trainings(ready.prepared.spec.lora, project.base.fingerprint)
        cells = {cell.key: cell for cell in lora_cells(ready.prepared, trainings)}
    assert set(cells) == {CellKey("flip", "lora", seed=0), CellKey("flip", "lora", seed=1)}
    rows = cells[CellKey("flip", "lora", seed=1)].rows
    assert [row.reward for row in rows] == [1.0, -1.0] * 4
    assert [row.sample.id for row in rows] == [sample.id for sample in ready.prepared.splits["flip"].test]
    assert {(row.answer, row.z) for row in rows} == {(None, None)}
    assert "no training on the held-out prompts of task turn" in caplog.text


@pytest.mark.parametrize("task", [{"max_tokens": 5}, {"template": "{prompt}!"}, {"test_fraction": 0.1}])
def test_a_task_that_was_asked_otherwise_or_trained_on_these_prompts_is_left_out(
    make_project: Any, task: dict[str, Any]
) -> None:
    project = make_project()
    experiment(project, ["flip"], **task)
    prepared = project.ready(lora=lora(project)).prepared
    assert list(lora_cells(prepared, lora_trainings(prepared.spec.lora, project.base.fingerprint))) == []


def test_what_cannot_be_taken_over_is_refused(make_project: Any) -> None:
    project = make_project()

    def refusal(**values: str) -> str:
        spec = project.spec(lora=lora(project, **values)).lora
        with pytest.raises(SpecError) as caught:
            lora_trainings(spec, values.get("fingerprint", project.base.fingerprint))
        assert caught.value.remedy
        return str(caught.value)

    assert "there is no experiment of `zfleet compare`" in refusal()
    experiment(project, ["flip"], finished=False)
    assert "no training of method lora-r2" in refusal()
    assert "its methods with LoRA: lora-r2" in refusal(method="svf")
    experiment(project, ["flip"])
    with pytest.raises(SpecError, match=r"is of base .*, this evaluation's is 000000000000"):
        lora_trainings(project.spec(lora=lora(project)).lora, "0" * 64)
