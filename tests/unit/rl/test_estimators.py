"""Estimators, losses and parametrisations, by hand."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.config.learner import LearnerSpec
from zfleet.rl.advantages import ESTIMATORS, Means
from zfleet.rl.expert import SCHEDULES
from zfleet.rl.loss import clipped_loss, policy_loss
from zfleet.rl.parametrisation import PARAMETRISATIONS, SigmoidMass
from zfleet.rl.rollout import Rollout, used_rollouts
from zfleet.svf.factors import Factors
from zfleet.tasks.task import Grade, Sample

REWARDS = torch.tensor([1.0, -1.0, 2.0, 5.0, 1.0, 1.0])
GROUPS = torch.tensor([3, 3, 3, 0, 7, 7])
"""Three answers to one prompt, one that is alone, and two that are equal."""


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("reinforce", [1.0, -1.0, 2.0, 5.0, 1.0, 1.0]),
        # Less .25, the steps before.
        ("ema", [0.75, -1.25, 1.75, 4.75, 0.75, 0.75]),
        # Less 1.5, the mean of this step over all workers.
        ("batch", [-0.5, -2.5, 0.5, 3.5, -0.5, -0.5]),
        # 1 - (-1 + 2)/2, -1 - (1 + 2)/2, 2 - (1 - 1)/2; alone: nothing to compare with; equal: nothing to learn.
        ("rloo", [0.5, -2.5, 2.0, 0.0, 0.0, 0.0]),
        # Less (1 - 1 + 2)/3.
        ("dr_grpo", [1 / 3, -5 / 3, 4 / 3, 0.0, 0.0, 0.0]),
        # Over the root of (1 + 25 + 16)/9/2.
        ("grpo", [1 / 21**0.5, -5 / 21**0.5, 4 / 21**0.5, 0.0, 0.0, 0.0]),
    ],
)
def test_an_estimator_by_hand(estimator: str, expected: list[float]) -> None:
    found = ESTIMATORS[estimator](REWARDS, GROUPS, Means(step=1.5, earlier=0.25))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert REWARDS.tolist() == [1.0, -1.0, 2.0, 5.0, 1.0, 1.0], "rewards were changed"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.1, 0.3, 1.0])), min_size=1, max_size=20))
def test_estimators_of_groups_sum_to_nothing_in_each(samples: list[tuple[int, float]]) -> None:
    groups, rewards = (torch.tensor(part) for part in zip(*samples, strict=True))
    for name in ("rloo", "dr_grpo", "grpo"):
        found = ESTIMATORS[name](rewards, groups, Means(0.0, 0.0))
        assert torch.zeros(4).index_add(0, groups, found).abs().max() < 1e-4
        assert bool(found.isfinite().all())


def test_every_estimator_of_a_spec_is_there() -> None:
    for name, known in (("estimator", ESTIMATORS), ("parametrisation", PARAMETRISATIONS)):
        assert set(get_args(LearnerSpec.model_fields[name].annotation)) == set(known)


def test_policy_loss_by_hand() -> None:
    """Samples of two tokens and of one, with advantages 2 and -4."""
    logprobs = torch.tensor([-1.0, -2.0, -0.5])
    assert float(policy_loss(logprobs, torch.tensor([2.0, 2.0, -4.0]))) == pytest.approx(6.0 - 2.0)


def test_clipped_loss_by_hand() -> None:
    """Ratios 1.5 and 0.5, of a good and of a bad sample, at a clip of 0.2."""
    sampled = torch.tensor([-1.0, -2.0, -1.0, -2.0])
    logprobs = (sampled + torch.tensor([1.5, 0.5, 1.5, 0.5]).log()).requires_grad_()
    loss = clipped_loss(logprobs, sampled, torch.tensor([2.0, 2.0, -4.0, -4.0]), 0.2)
    good, bad = 2 * (min(1.5, 1.2) + min(0.5, 0.8)), -4 * (max(1.5, 1.2) + max(0.5, 0.8))
    assert float(loss.detach()) == pytest.approx(-(good + bad), abs=1e-5)
    loss.backward()
    assert logprobs.grad is not None
    # A token that has moved as far as it may in the direction that its advantage asks for has no gradient.
    assert logprobs.grad.tolist() == [0.0, pytest.approx(-1.0), pytest.approx(6.0), 0.0]


def test_the_clipped_loss_has_the_policy_losss_gradient_where_nothing_moved() -> None:
    logprobs, advantages = torch.randn(4).requires_grad_(), torch.tensor([1.0, -2.0, 0.5, 0.0])
    clipped, plain = (
        torch.autograd.grad(loss, logprobs)[0]
        for loss in (clipped_loss(logprobs, logprobs.detach(), advantages, 0.2), policy_loss(logprobs, advantages))
    )
    assert torch.allclose(clipped, plain, atol=1e-6)


def test_schedules_by_hand() -> None:
    found = {name: [rate(done) for done in (0.0, 0.25, 0.5, 1.0)] for name, rate in SCHEDULES.items()}
    assert found["constant"] == [1, 1, 1, 1]
    assert found["linear"] == [1, 0.75, 0.5, 0]
    assert found["cosine"] == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, 0], abs=1e-12)


def test_what_teaches_nothing_can_be_left_out() -> None:
    rewards = {0: [1.0, 1.0, -1.0], 1: [1.0, 1.0, 1.0], 2: [-1.0, -1.0, 1.0]}
    rollouts = [
        Rollout(Sample(str(group), ""), group, (1,), (2,), "", Grade(value), finish="length" if value < 0 else "stop")
        for group, values in rewards.items()
        for value in values
    ]
    counted = {
        (truncated, equal): [r.group for r in used_rollouts(LearnerSpec.model_validate(given), rollouts)]
        for truncated in ("grade", "leave_out")
        for equal in ("keep", "leave_out")
        if (given := {"samples_per_prompt": 3, "truncated": truncated, "equal_groups": equal})
    }
    assert counted["grade", "keep"] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert counted["grade", "leave_out"] == [0, 0, 0, 2, 2, 2]
    assert counted["leave_out", "keep"] == [0, 0, 1, 1, 1, 2]
    assert counted["leave_out", "leave_out"] == []


def test_z_starts_as_exactly_one_and_keeps_its_mass(tiny_factors: Factors) -> None:
    shape = SigmoidMass(tiny_factors, torch.device("cpu"))
    assert bool((shape.z(shape.start()) == 1).all())
    p = 2 * torch.randn(tiny_factors.layout.size, generator=torch.Generator().manual_seed(0))
    z = tiny_factors.layout.split(shape.z(p))
    gates = tiny_factors.layout.split(torch.sigmoid(p))
    for name, s in tiny_factors.singular_values.items():
        assert float((s * z[name]).sum()) == pytest.approx(float(s.sum()), rel=1e-5)
        ratio = z[name] / gates[name]
        assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-5)


@pytest.mark.parametrize(("name", "expected"), [("direct", [0.5, 2.0]), ("exp", [math.exp(0.5), math.exp(2.0)])])
def test_a_parametrisation_by_hand(tiny_factors: Factors, name: str, expected: list[float]) -> None:
    shape = PARAMETRISATIONS[name](tiny_factors, torch.device("cpu"))
    assert bool((shape.z(shape.start()) == 1).all())
    assert shape.start().shape == (tiny_factors.layout.size,)
    p = torch.tensor([0.5, 2.0], requires_grad=True)
    assert shape.z(p).tolist() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(shape.z(p).sum(), p)
    assert gradient.tolist() == pytest.approx([1.0, 1.0] if name == "direct" else expected)
