"""How an expert learns, as a spec says it: what does not go together, or has no use, is refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from zfleet.config.load import load_spec, parse_spec
from zfleet.config.specs import TrainSpec
from zfleet.errors import SpecError


@pytest.mark.parametrize(
    ("learner", "told"),
    [
        ({"kl_in": "reward"}, "kl_in is `reward` and kl is 0"),
        ({"kl_in": "reward", "kl": 1, "kl_over": "base"}, "kl_over is `base` and kl_in is `reward`"),
        (
            {"kl_in": "reward", "kl": 1, "estimator": "grpo", "samples_per_prompt": 2},
            "set equal_groups to `leave_out`, or kl_in to `loss`",
        ),
        ({"kl_over": "base"}, "kl_over is 'base' and has no use: kl and kl_limit is not set"),
        ({"ratio_clip": 0.1}, "ratio_clip is 0.1 and has no use: staleness is not set"),
        ({"patience": 2}, "patience is 2 and has no use: validate_every is not set"),
        ({"validation_samples": 3}, "validation_samples is 3 and has no use: validate_every is not set"),
        ({"reward": "random", "validate_every": 5}, "the control would be none"),
        ({"lr": "fast"}, "learner.lr is 'fast'"),
        ({"lr": float("inf")}, "learner.lr is inf"),
        ({"kl": float("nan")}, "learner.kl is nan"),
        ({"seed": 10**23}, "learner.seed is 100000000000000000000000"),
    ],
)
def test_what_does_not_go_together_is_refused(learner: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec({"experts": [{"name": "a", "task": {"lab": "sort"}}], "learner": learner}, TrainSpec)
    assert told in refused.value.message


@pytest.mark.parametrize("learner", ["fast", [1], 3])
def test_an_experts_learner_must_be_a_mapping(learner: object) -> None:
    with pytest.raises(SpecError, match=r"experts\.0\.learner is"):
        parse_spec({"experts": [{"name": "a", "task": {"lab": "sort"}, "learner": learner}]}, TrainSpec)


def test_a_limit_needs_no_weight() -> None:
    job = load_spec(
        None, TrainSpec, ["learner.kl_limit=3", "learner.kl_over=base", "experts=[{name: a, task: {lab: add}}]"]
    )
    assert (job.learner.kl, job.learner.kl_limit) == (0, 3)
