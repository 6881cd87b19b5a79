"""Experiments as real Ray tasks on a tiny base."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zfleet.config.compare import CompareSpec
from zfleet.config.load import parse_spec
from zfleet.errors import RewardError
from zfleet_jobs.compare import run as compare_run
from zfleet_jobs.compare.run import run_experiment

REWARDS = """
import os, signal
from pathlib import Path

ROOT = Path({root!r})


def killed(completion, sample):
    marker = ROOT / "killed"
    if not marker.exists():
        marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0 if "a" in completion else -1.0


def raising(completion, sample):
    raise ValueError("no grade for this")
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


def _spec(root: Path, base: Path, reward: dict[str, str], **values: Any) -> CompareSpec:
    task = {"jsonl": str(root / "prompts.jsonl"), "template": "{prompt}", "max_tokens": 4, "reward": reward}
    given = {
        "base": {"model": str(base)},
        "tasks": {"letters": task},
        "methods": {
            "svf": {},
            "lora": {"adapter": "lora", "rank": 2, "learner": {"lr": 0.01}},
            "attention": {"targets": "attention", "learner": {"objective": "supervised"}},
        },
        "against": "lora",
        "learner": {"steps": 2, "prompts_per_step": 4},
        "seeds": [0],
        "engine": {"slots": 16, "max_length": 32},
        "eval_samples": 4,
        "storage": str(root / "experiments"),
    }
    return parse_spec(given | values, CompareSpec)


def test_an_experiment_survives_a_killed_process_and_runs_nothing_twice(
    root: Path, tiny_folder: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec(root, tiny_folder, {"kind": "python", "value": "graders_of_experiments:killed"})
    outcomes = run_experiment(spec)
    assert int((root / "killed").read_text()) > 0, "nothing was killed"
    svf, lora, attention = outcomes
    assert [one.method for one in outcomes] == ["svf", "lora", "attention"]
    assert (svf.n, svf.samples, svf.before) == (4, 8, lora.before)
    assert svf.parameters > attention.parameters
    assert all(one.seconds > 0 and one.peak_mib > 0 for one in outcomes)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was trained again")

    monkeypatch.setattr(compare_run, "_train", refuse)
    assert run_experiment(spec) == outcomes


def test_a_raising_reward_ends_an_experiment_with_its_name(root: Path, tiny_folder: Path, ray_cluster: None) -> None:
    spec = _spec(root, tiny_folder, {"kind": "python", "value": "graders_of_experiments:raising"})
    with pytest.raises(RewardError, match="no grade for this"):
        run_experiment(spec)
