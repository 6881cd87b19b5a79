"""A step of learning: what moves z, what is counted, and what ends a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import InvalidZ, RewardError, TrainingDiverged
from zfleet.models.base import load_base
from zfleet.models.svf_model import SvfModel
from zfleet.rewards.weighted import Part, Weighted
from zfleet.rl.advantages import ESTIMATORS
from zfleet.svf.factors import Factors
from zfleet.tasks.task import Sample, Ungraded
from zfleet.testing.solo import SPEC, WORDS, HasVowel, python_reward, solo, vowels_task


def test_a_raising_reward_names_the_sample_and_leaves_the_learner_as_it_was(
    tiny_model: SvfModel, engine: SyncEngine
) -> None:
    def fails_on_s3(completion: str, sample: Sample) -> float:
        if sample.id == "s3":
            raise ValueError("no such grade")
        return 1.0

    known = engine.stats().known_z
    learner = solo(tiny_model, engine, vowels_task(python_reward(fails_on_s3)), SPEC)
    before = learner.expert.p.detach().clone()
    with pytest.raises(RewardError, match=r"sample s3 .*no such grade") as refused:
        learner.step()
    assert "skip" in refused.value.remedy
    assert learner.expert.steps_done == 0
    assert torch.equal(learner.expert.p, before)
    assert engine.stats().known_z == known, "the z of the failed step was not dropped"

    going_on = solo(tiny_model, engine, vowels_task(python_reward(fails_on_s3)), SPEC, skip_failed_rewards=True)
    assert going_on.step().samples == 7 * 4
    nothing_left = solo(tiny_model, engine, vowels_task(python_reward(_raises)), SPEC, skip_failed_rewards=True)
    report = nothing_left.step()
    assert (report.samples, report.reward, report.grad_norm) == (0, None, 0.0)
    assert torch.equal(nothing_left.expert.p, before)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_gradient_that_is_not_finite_stops_and_changes_nothing(
    tiny_model: SvfModel, engine: SyncEngine, estimator: str
) -> None:
    learner = solo(tiny_model, engine, vowels_task(), SPEC.model_copy(update={"estimator": estimator}))
    learner.step()
    before = learner.expert.checkpoint()
    learner.expert.task = vowels_task(python_reward(lambda completion, sample: 1e300))
    with pytest.raises(InvalidZ, match="step 2"):
        learner.step()
    after = learner.expert.checkpoint()
    assert after.step == before.step
    assert all(torch.equal(after.tensors[key], before.tensors[key]) for key in ("p", "exp_avg", "exp_avg_sq"))


def test_kl_pulls_towards_the_base(tiny_model: SvfModel, engine: SyncEngine) -> None:
    spec = SPEC.model_copy(update={"kl": 1.0, "lr": 0.05, "samples_per_prompt": 2})
    learner = solo(tiny_model, engine, vowels_task(python_reward(lambda completion, sample: 0.0)), spec)
    at_base = learner.step()
    assert at_base.kl == pytest.approx(0.0, abs=1e-4)
    assert at_base.grad_norm == pytest.approx(0.0, abs=1e-4)
    with torch.no_grad():
        learner.expert.p.copy_(0.3 * torch.randn(learner.expert.p.shape, generator=torch.Generator().manual_seed(0)))
    reports = [learner.step() for _ in range(15)]
    assert reports[0].kl > 0.1
    assert reports[-1].kl < reports[0].kl / 2, [r.kl for r in reports]


def test_in_bfloat16_the_base_does_not_diverge_from_itself(tiny_folder: Path, tiny_factors: Factors) -> None:
    """In bfloat16 the base on its factors is not W rounded: it is no divergence."""
    model = SvfModel(load_base(tiny_folder, dtype=torch.bfloat16), tiny_factors)
    spec = SPEC.model_copy(update={"kl": 1.0, "kl_limit": 1e-3})
    with SyncEngine(TorchEngine(model, EngineSpec(slots=64))) as engine:
        report = solo(model, engine, vowels_task(python_reward(lambda completion, sample: 0.0)), spec).step()
    assert report.kl < 1e-5


def test_what_a_reward_loses_to_the_divergence_is_in_the_average_that_it_is_compared_with(
    tiny_model: SvfModel, engine: SyncEngine
) -> None:
    spec = SPEC.model_copy(update={"estimator": "ema", "kl": 5.0, "kl_in": "reward", "lr": 0.01})
    learner = solo(tiny_model, engine, vowels_task(python_reward(lambda completion, sample: 1.0)), spec)
    with torch.no_grad():
        learner.expert.p.copy_(0.3 * torch.randn(learner.expert.p.shape, generator=torch.Generator().manual_seed(0)))
    report = learner.step()
    assert learner.expert.mean_reward == pytest.approx(1.0 - 5.0 * report.kl, rel=1e-4)
    assert report.kl > 0.1
    assert report.reward == 1.0


def test_a_z_that_no_engine_takes_ends_the_run_at_its_step(tiny_model: SvfModel, engine: SyncEngine) -> None:
    learner = solo(tiny_model, engine, vowels_task(), SPEC.model_copy(update={"parametrisation": "exp", "lr": 200.0}))
    with pytest.raises(TrainingDiverged, match=r"'vowels', step 1: .*finite") as told:
        learner.step()
    assert "lower learner.lr" in told.value.remedy


def test_a_step_with_nothing_to_learn_from_leaves_z_where_it_is(tiny_model: SvfModel, engine: SyncEngine) -> None:
    learner = solo(tiny_model, engine, vowels_task(), SPEC.model_copy(update={"equal_groups": "leave_out"}))
    assert learner.step().used > 0
    before = learner.expert.p.detach().clone()
    learner.expert.task = vowels_task(python_reward(lambda completion, sample: 1.0))
    report = learner.step()
    assert (report.step, report.samples, report.used) == (2, 32, 0)
    assert torch.equal(learner.expert.p, before), "momentum moved it"


def test_samples_without_a_grade_are_handed_out_and_counted(tiny_model: SvfModel, engine: SyncEngine) -> None:
    def some(completion: str, sample: Sample) -> float | None:
        if sample.id == "s0":
            raise ValueError("cannot be graded")
        return None if sample.id == "s1" else 1.0

    learner = solo(tiny_model, engine, vowels_task(python_reward(some)), SPEC, skip_failed_rewards=True)
    samples = learner.learner.sample()
    (report,) = learner.learner.learn(samples)
    (batch,) = samples.batches
    kept = list(zip(batch.rollouts, batch.advantages_of_all.tolist(), strict=True))
    assert (report.samples, report.skipped, report.used) == (6 * 4, 2 * 4, 6 * 4)
    assert report.tokens == sum(len(rollout.completion) for rollout, _ in kept)
    reasons = {rollout.sample.id: rollout.grade.reason for rollout, _ in kept if isinstance(rollout.grade, Ungraded)}
    assert reasons.keys() == {"s0", "s1"}
    assert "cannot be graded" in reasons["s0"]
    assert "does not belong to its task" in reasons["s1"]
    assert {rollout.sample.id for rollout, advantage in kept if math.isnan(advantage)} == {"s0", "s1"}


def test_a_part_counts_over_the_samples_that_it_grades(tiny_model: SvfModel, engine: SyncEngine) -> None:
    def some(completion: str, sample: Sample) -> float | None:
        return 1.0 if sample.id in ("s1", "s2") else None

    parts = [
        Part(name, 1.0, python_reward(function)) for name, function in {"some": some, "none": lambda *_: None}.items()
    ]
    report = solo(tiny_model, engine, vowels_task(Weighted((*parts, Part("vowels", 1.0, HasVowel())))), SPEC).step()
    assert report.parts.keys() == {"some", "vowels"}
    assert report.parts["some"] == 1.0
    assert report.reward == pytest.approx(report.parts["vowels"] + 2 / len(WORDS))


def _raises(completion: str, sample: Sample) -> float:
    raise KeyError("grade")
