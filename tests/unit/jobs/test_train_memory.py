"""What `auto` stands for in a run: chosen before anything starts, kept when the run goes on elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zfleet.config.learner import LARGEST_MICRO_BATCH
from zfleet.config.specs import TrainSpec
from zfleet.errors import JobError, SpecError
from zfleet.memory.chosen import Chosen
from zfleet.memory.table import MemoryTable
from zfleet.models.bundle import pack_base
from zfleet_jobs.run_folder.choice import FILE, record_choice, recorded_choice
from zfleet_jobs.run_folder.plan import Plan
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.testing.training import Place, contains, training_place
from zfleet_jobs.train.memory import plan_memory
from zfleet_jobs.train.plan import make_plans


@pytest.fixture
def place(tiny_folder: Path, tmp_path: Path) -> Iterator[Place]:
    with training_place(tmp_path, tiny_folder, "") as place:
        yield place


def plans_of(spec: TrainSpec) -> list[Plan]:
    return make_plans(spec, pack_base(spec.base), here=True)


def planned(place: Place, before: Chosen | None = None, **changes: Any) -> tuple[Chosen, MemoryTable]:
    spec = place.spec({"one": contains("a")}, run="mine", **changes)
    return plan_memory(spec, place.base, plans_of(spec), before)


def test_a_small_base_has_the_largest_micro_batches(place: Place) -> None:
    chosen, table = planned(place)
    assert chosen == Chosen(LARGEST_MICRO_BATCH, False)
    names = [part.name for part in table.parts]
    assert {"weights", "factors", "key-value cache", "optimizer", "the process itself"} <= set(names)
    assert all(part.bytes > 0 for part in table.parts)


def test_a_run_goes_on_with_what_it_was_started_with(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    before = Chosen(64, True)
    with caplog.at_level(logging.WARNING):
        chosen, _ = planned(place, before)
    assert chosen == before
    assert "run mine goes on in micro-batches of 64 tokens, layers computed again in the backward pass" in caplog.text
    assert "as it was started" in caplog.text


def test_what_a_run_depends_on_does_not_depend_on_the_memory(place: Place) -> None:
    """So that neither the record of the run nor the registry takes another machine's number for another spec."""
    spec = place.spec({"one": contains("a")})
    (plan,) = plans_of(spec)
    assert plan.depends["learner"]["micro_batch_tokens"] == "auto"
    assert "recompute" not in plan.spec


def test_a_choice_is_read_as_it_was_written(place: Place) -> None:
    storage = Storage.at(str(place.storage), "mine")
    assert recorded_choice(storage) is None
    record_choice(storage, Chosen(768, True))
    assert recorded_choice(storage) == Chosen(768, True)
    storage.put(FILE, b"{}")
    with pytest.raises(JobError, match=rf"{FILE} is damaged"):
        recorded_choice(storage)


def test_memory_below_what_is_held_is_refused_before_anything_starts(place: Place) -> None:
    with pytest.raises(
        SpecError, match=r"a worker needs .* and has 100\.0 MiB|0\.10 GiB: that is resources\.memory"
    ) as e:
        planned(place, resources={"memory": "100MiB"})
    assert "raise resources.memory to" in e.value.remedy


def test_settings_that_cannot_fit_are_refused_with_the_largest_parts(place: Place) -> None:
    many = {"steps": 6, "prompts_per_step": 100_000, "micro_batch_tokens": 2_000_000}
    with pytest.raises(SpecError, match="a micro-batch, forward and backward") as refused:
        planned(place, resources={"memory": 2}, learner=many, recompute=False)
    assert "learner.micro_batch_tokens" in refused.value.remedy


def test_scarce_memory_makes_smaller_micro_batches(place: Place) -> None:
    many = {"steps": 6, "prompts_per_step": 2048}
    plenty, table = planned(place, learner=many)
    held = table.peak - max(part.bytes for part in table.parts if part.when == "learning")
    scarce, _ = planned(place, learner=many, resources={"memory": (held + 4 * 2**20) / 2**30})
    assert scarce.micro_batch_tokens < plenty.micro_batch_tokens or scarce.recompute


def test_a_run_that_cannot_go_on_here_says_so(place: Place) -> None:
    with pytest.raises(SpecError, match="run 'mine' cannot go on here as it was started: a worker needs") as refused:
        planned(place, Chosen(512, False), resources={"memory": "100MiB"})
    assert "--set run=NAME" in refused.value.remedy
