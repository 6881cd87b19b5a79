"""The learner's part of a spec: settings that contradict each other or have no effect are refused."""

from __future__ import annotations

from typing import Any

import pytest

from zfleet.config.load import load_spec, parse_spec
from zfleet.config.specs import TrainSpec
from zfleet.errors import SpecError


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ({"kl_in": "reward"}, "kl_in is `reward` and kl is 0"),
        ({"kl_in": "reward", "kl": 1, "kl_over": "base"}, "kl_over is `base` and kl_in is `reward`"),
        (
            {"kl_in": "reward", "kl": 1, "estimator": "grpo", "samples_per_prompt": 2},
            "set equal_groups to `leave_out` or kl_in to `loss`",
        ),
        ({"kl_over": "base"}, "kl_over is 'base' but has no effect: set kl or kl_limit"),
        ({"ratio_clip": 0.1}, "ratio_clip is 0.1 but has no effect: set staleness"),
        ({"patience": 2}, "patience is 2 but has no effect: set validate_every"),
        ({"validation_samples": 3}, "validation_samples is 3 but has no effect: set validate_every"),
        ({"reward": "random", "validate_every": 5}, "would no longer be a control"),
        ({"lr": "fast"}, "learner.lr is 'fast'"),
        ({"lr": float("inf")}, "learner.lr is inf"),
        ({"kl": float("nan")}, "learner.kl is nan"),
        ({"seed": 10**23}, "learner.seed is 100000000000000000000000"),
    ],
)
def test_contradictory_settings_are_refused(learner: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec({"experts": [{"name": "a", "task": {"lab": "sort"}}], "learner": learner}, TrainSpec)
    assert message in refused.value.message


@pytest.mark.parametrize("learner", ["fast", [1], 3])
def test_an_experts_learner_must_be_a_mapping(learner: object) -> None:
    with pytest.raises(SpecError, match=r"experts\.0\.learner is"):
        parse_spec({"experts": [{"name": "a", "task": {"lab": "sort"}, "learner": learner}]}, TrainSpec)


def test_kl_limit_needs_no_kl() -> None:
    job = load_spec(
        None, TrainSpec, ["learner.kl_limit=3", "learner.kl_over=base", "experts=[{name: a, task: {lab: add}}]"]
    )
    assert (job.learner.kl, job.learner.kl_limit) == (0, 3)
