"""A training of an experiment that is killed goes on from its newest checkpoint, and gives what it would have given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from zfleet.config.compare import CompareSpec
from zfleet.config.load import parse_spec
from zfleet.config.specs import BaseSpec
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.rewards.text import Contains
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_jobs.compare import trial as trial_module
from zfleet_jobs.compare.outcome import Outcome
from zfleet_jobs.compare.run import trials_of
from zfleet_jobs.compare.training_folder import TrainingFolder
from zfleet_jobs.compare.trial import Trial, run_trial
from zfleet_jobs.run_folder.storage import Storage

PROMPTS = [f"{verb} {left}{right}" for verb in ("flip", "sort") for left in "abc" for right in "xyz"]
TASK = Task(
    "letters",
    tuple(Sample(f"train/{prompt}", prompt, "a") for prompt in PROMPTS[:12]),
    tuple(Sample(f"test/{prompt}", prompt, "a") for prompt in PROMPTS[12:]),
    PromptTemplate("{prompt}"),
    Contains(),
    4,
)
STEPS = 4


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class DiesAt:
    """Grades as ``Contains`` does, and ends the process at one answer."""

    def __init__(self, answer: int) -> None:
        self._left = answer

    def __call__(self, completion: str, sample: Sample) -> Grade:
        self._left -= 1
        if not self._left:
            raise Killed
        return Contains()(completion, sample)


@pytest.fixture
def bundle(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseBundle:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    return pack_base(BaseSpec(model=str(tiny_folder)))


def spec_of(tiny_folder: Path) -> CompareSpec:
    given: dict[str, Any] = {
        "base": {"model": str(tiny_folder)},
        "tasks": {"letters": {"lab": "sort"}},
        "methods": {"svf": {}, "lora": {"adapter": "lora", "rank": 2, "learner": {"lr": 0.01}}},
        "against": "lora",
        "learner": {"steps": STEPS, "prompts_per_step": 4, "validate_every": 2, "validation_samples": 4},
        "seeds": [0],
        "engine": {"slots": 16, "max_length": 32},
    }
    return parse_spec(given, CompareSpec)


@dataclass(frozen=True)
class Here:
    """Stands for a base that was sent to another process: it is found without a cluster."""

    bundle: BaseBundle

    def find(self) -> BaseBundle:
        return self.bundle


def train(trial: Trial, bundle: BaseBundle, task: Task, spec: CompareSpec, folder: Path) -> Outcome:
    shipped = cast(ShippedBase, Here(bundle))
    return run_trial(trial, shipped, task, spec, TrainingFolder(Storage(str(folder)), str(folder / "samples")), "1")


@pytest.mark.parametrize("method", ["svf", "lora"])
def test_a_killed_training_goes_on_and_gives_the_same(
    method: str, bundle: BaseBundle, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "_CHECKPOINT_SECONDS", 0.0)
    spec = spec_of(tiny_folder)
    (trial,) = (trial for trial in trials_of(spec) if trial.method == method)
    whole = train(trial, bundle, TASK, spec, tmp_path / "whole")

    # The held-out prompts and the first validation come before the first step.
    graded_before = len(TASK.test) + len(spec_validation(TASK, spec))
    dies = replace(TASK, reward=DiesAt(graded_before + 2 * 4 + len(spec_validation(TASK, spec)) + 1))
    with pytest.raises(Killed):
        train(trial, bundle, dies, spec, tmp_path / "killed")
    folder = TrainingFolder(Storage(str(tmp_path / "killed")), "")
    assert folder.steps_done() == 2
    resumed = train(trial, bundle, TASK, spec, tmp_path / "killed")

    measured = {"seconds", "peak_mib", "held_mib", "z"}
    assert {key: value for key, value in vars(resumed).items() if key not in measured} == {
        key: value for key, value in vars(whole).items() if key not in measured
    }
    assert len(whole.rewards_before) == len(whole.rewards) == len(TASK.test)
    assert [step for step, _ in whole.curve] == [1, 2, 3, 4]
    assert resumed.samples == STEPS * 4
    assert resumed.seconds > 0
    if method == "lora":
        assert resumed.z is whole.z is None
        return
    assert whole.z == "/".join((*(tmp_path / "whole").parts[-2:], "z.safetensors"))
    z, again = (ZVector.load(tmp_path / name / "z.safetensors") for name in ("whole", "killed"))
    assert z.digest == again.digest


def spec_validation(task: Task, spec: CompareSpec) -> tuple[Sample, ...]:
    from zfleet.tasks.split import set_aside

    return tuple(set_aside(task, spec.learner.validation_samples)[1])
