"""Experiments as real Ray tasks on a tiny base.

What is stored under which settings, and what results show, is in tests/unit/jobs. Here are real tasks, because Ray says
how a process ended, and each training measures the memory of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from zfleet.config.compare import AblateSpec, CompareSpec
from zfleet.config.load import parse_spec
from zfleet.errors import TaskError
from zfleet_jobs.code_version import code_version
from zfleet_jobs.compare import run as compare_run
from zfleet_jobs.compare.run import run_experiment
from zfleet_jobs.compare.trial import Trial
from zfleet_jobs.samples.look import SampleQuery, look_at

METHODS: dict[str, dict[str, Any]] = {
    "attention": {"targets": "attention", "learner": {"objective": "supervised"}},
    "lora": {"adapter": "lora", "rank": 2, "learner": {"lr": 0.01}},
}
REWARDS = """
import os, signal
from pathlib import Path

ROOT = Path({root!r})


def letters(completion, sample):
    return 1.0 if "a" in completion else -1.0


def killed(completion, sample):
    marker = ROOT / "killed"
    if not marker.exists():
        marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return letters(completion, sample)


def raising(completion, sample):
    if (ROOT / "mended").exists():
        return letters(completion, sample)
    raise ValueError("no grade for this")


def dying(completion, sample):
    if not (ROOT / "mended").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return letters(completion, sample)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    words = [f"{verb} {left}{right}" for verb in ("flip", "sort") for left in "abcdef" for right in "xyz"]
    rows = [{"prompt": word, "answer": word[-2:]} for word in words]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "graders_of_experiments.py").write_text(REWARDS.format(root=str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    sys.modules.pop("graders_of_experiments", None)


def _given(root: Path, base: Path, rewards: tuple[str, ...]) -> dict[str, Any]:
    """A task for each reward, called after it."""
    task = {"jsonl": str(root / "prompts.jsonl"), "template": "{prompt}", "max_tokens": 4}
    graders = {name: {"kind": "python", "value": f"graders_of_experiments:{name}"} for name in rewards}
    return {
        "base": {"model": str(base)},
        "tasks": {name: task | {"reward": grader} for name, grader in graders.items()},
        "learner": {"steps": 2, "prompts_per_step": 4},
        "seeds": [0],
        "engine": {"slots": 16, "max_length": 32},
        "eval_samples": 4,
        "storage": str(root / "experiments"),
    }


def _compare(root: Path, base: Path, *rewards: str, methods: dict[str, Any] = METHODS) -> CompareSpec:
    return parse_spec(_given(root, base, rewards) | {"methods": methods, "against": "lora"}, CompareSpec)


def _ablate(root: Path, base: Path, *rewards: str) -> AblateSpec:
    """A grid of one method."""
    grid = {"targets": ["all"], "objectives": ["reinforce"], "parametrisations": ["exp"]}
    return parse_spec(_given(root, base, rewards) | grid, AblateSpec)


def test_an_experiment_survives_a_killed_process_and_trains_only_what_changed(
    root: Path, tiny_folder: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _compare(root, tiny_folder, "killed")
    results = run_experiment(spec)
    assert int((root / "killed").read_text()) > 0, "nothing was killed"
    assert not results.failed
    attention, lora = results.finished
    assert [one.method for one in results.finished] == ["attention", "lora"]
    assert (attention.n, attention.samples, attention.before) == (4, 8, lora.before)
    for one in results.finished:
        assert len(one.rewards) == 4
        assert one.reward == pytest.approx(sum(reward or 0.0 for reward in one.rewards) / 4)
        assert one.seconds > 0
        assert 0 < one.held_mib <= one.peak_mib
        assert one.code == code_version()

    look = look_at("compare", spec.storage, SampleQuery())
    assert [training.expert for training, _ in look.trainings] == [f"{name}-killed-0" for name in sorted(METHODS)]
    assert {(spread.samples, spread.steps) for _, spread in look.trainings} == {(8, 2)}

    changed = METHODS | {"lora": {}}
    attention_again, svf = run_experiment(_compare(root, tiny_folder, "killed", methods=changed)).finished
    assert attention_again == attention, "it was trained again"
    assert svf.before == lora.before
    assert svf.parameters > attention.parameters

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was trained again")

    monkeypatch.setattr(compare_run, "_train", refuse)
    assert run_experiment(spec) == results


def test_a_training_that_fails_leaves_the_others_and_is_tried_again(
    root: Path, tiny_folder: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward raises, and a process dies too often: what does neither finishes, and is not trained again."""
    monkeypatch.setattr(compare_run, "_RETRIES", 0)
    results = run_experiment(_ablate(root, tiny_folder, "raising", "dying", "letters"))
    assert [one.task for one in results.finished] == ["letters"]
    raised, died = results.failed
    assert str(raised) == "all reinforce exp on raising (seed 0)"
    assert "no grade for this" in raised.reason
    assert (died.task, died.reason) == ("dying", "its process died 1 times")

    (root / "mended").touch()
    again = run_experiment(_ablate(root, tiny_folder, "raising", "letters"))
    assert not again.failed
    assert [one.task for one in again.finished] == ["raising", "letters"]
    # Had it been trained again, its seconds would differ.
    assert again.finished[1] == results.finished[0]


def test_an_error_that_nobody_foresaw_shows_itself(
    root: Path, tiny_folder: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(compare_run, "run_trial", mistaken)
    with pytest.raises(IndexError, match="list index out of range"):
        run_experiment(_ablate(root, tiny_folder, "letters"))


def test_no_method_has_all_its_trainings_side_by_side(
    root: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[str]] = []

    def train(spec: CompareSpec, todo: list[Trial], *_: object) -> tuple[()]:
        orders.append([trial.method for trial in todo])
        return ()

    monkeypatch.setattr(compare_run, "cluster", lambda address: nullcontext())
    monkeypatch.setattr(compare_run, "_train", train)
    methods = {"svf": {}, **METHODS}
    spec = _compare(root, tiny_folder, "letters", "killed", "raising", methods=methods)
    for _ in range(2):
        run_experiment(spec)
    first, second = orders
    assert first == second, "the order is the same every time"
    assert sorted(first) == sorted([*methods] * 3)
    assert all(first[place : place + 3] != [first[place]] * 3 for place in range(len(first) - 2))


def test_prompts_that_do_not_fit_are_told(
    root: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compare_run, "cluster", lambda address: nullcontext())
    monkeypatch.setattr(compare_run, "_train", lambda *_: ())
    with (root / "prompts.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "flip " * 20, "answer": "x"}) + "\n")
    run_experiment(_compare(root, tiny_folder, "letters"))
    assert "1 of 37 prompts of" in caplog.text


def test_answers_that_are_missing_are_found_before_anything_is_trained(
    root: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_run, "cluster", None)
    with (root / "prompts.jsonl").open("a") as file:
        file.writelines(json.dumps({"prompt": f"sort {letter}"}) + "\n" for letter in "abcdefgh")
    with pytest.raises(TaskError, match="have no reference answer"):
        run_experiment(_compare(root, tiny_folder, "letters"))
