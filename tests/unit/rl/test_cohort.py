"""Experts side by side over one base learn what each learns alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import FinishReason
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import InvalidZ, TaskError, TrainingDiverged
from zfleet.models.base import load_base
from zfleet.models.svf_model import SvfModel
from zfleet.rewards.text import Contains
from zfleet.rl.checkpoint import Checkpoint
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.lora import LoraWeights
from zfleet.rl.report import StepReport
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import SvfWeights
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FakeEngine

STEPS = 5
SPECS = (
    {"lr": 0.05},
    {"lr": 0.1, "kl": 0.3, "estimator": "rloo", "clip": 0.2},
    {
        "lr": 0.02,
        "estimator": "grpo",
        "kl_limit": 1e9,
        "parametrisation": "exp",
        "temperature": 0.7,
        "schedule": "cosine",
    },
    {
        "lr": 0.05,
        "kl": 0.1,
        "kl_in": "reward",
        "estimator": "ema",
        "equal_groups": "leave_out",
        "truncated": "leave_out",
    },
)
"""Experts that differ in all that an expert may differ in."""


def _spec(**values: Any) -> LearnerSpec:
    settings = {"steps": STEPS, "prompts_per_step": 4, "samples_per_prompt": 3, "seed": 7}
    return LearnerSpec.model_validate(settings | values)


def _task(name: str = "letters", value: str = "a") -> Task:
    words = ("flip bca", "reverse hello", "sort ab", "add 3 4", "turn xyz", "order qwe", "flip aa", "sort zyx")
    samples = tuple(Sample(f"{name}-{place}", word, word[-2:]) for place, word in enumerate(words))
    return Task(name, samples, samples, PromptTemplate(), Contains(value), max_tokens=4)


def _recorded(expert: int, step: int) -> list[Rollout]:
    rng = random.Random(f"{expert}/{step}")
    rollouts = []
    for group in range(4):
        prompt = tuple(rng.randrange(5, 60) for _ in range(rng.randrange(2, 9)))
        for _ in range(3):
            completion = tuple(rng.randrange(5, 60) for _ in range(rng.randrange(1, 5)))
            grade = Grade(rng.choice([-1.0, 1.0, 0.5]))
            finish: FinishReason = "length" if rng.random() < 0.2 else "stop"
            sample = Sample(f"{expert}/{group}", "")
            rollouts.append(Rollout(sample, group, prompt, completion, "", grade, finish=finish))
    return rollouts


def _learned(weights: SvfWeights, engine: SyncEngine, chosen: Sequence[int], **values: Any) -> dict[int, list[Tensor]]:
    """Of each chosen expert: its gradient in every step, and its z after the last, all on recorded rollouts."""
    experts = [ExpertInTraining(weights, _task(), _spec(**SPECS[number], **values), str(number)) for number in chosen]
    learner = Learner(weights, engine, experts)
    found: dict[int, list[Tensor]] = {number: [] for number in chosen}
    for step in range(STEPS):
        batches = learner.compare(experts, [_recorded(number, step) for number in chosen])
        gradients = learner.mean_gradients(batches)
        for number, expert, gradient, batch in zip(chosen, experts, gradients.each, batches, strict=True):
            found[number].append(gradient.clone())
            expert.apply(gradient)
            expert.average_reward(batch.means.step)
    for number, expert in zip(chosen, experts, strict=True):
        found[number].append(weights.z_rows([expert.spec], [expert.p]).detach())
    return found


@pytest.mark.parametrize("micro_batch_tokens", [8192, 40])
def test_a_cohort_of_four_learns_what_four_learn_alone(tiny_model: SvfModel, micro_batch_tokens: int) -> None:
    weights = SvfWeights(tiny_model)
    with SyncEngine(FakeEngine()) as engine:
        cohort = _learned(weights, engine, range(4), micro_batch_tokens=micro_batch_tokens)
        for number in range(4):
            solo = _learned(weights, engine, [number])[number]
            for mine, alone in zip(cohort[number], solo, strict=True):
                assert float((mine - alone).abs().max()) <= 2e-5 * float(alone.abs().max())
            assert max(float(gradient.abs().max()) for gradient in solo[:-1]) > 1e-2, "there is nothing to compare"
    first, second = cohort[0][-1], cohort[1][-1]
    assert float((first - second).abs().max()) > 0.01, "the experts learned the same"


def test_experts_answer_in_one_batch_and_stop_on_their_own(tiny_model: SvfModel, engine: SyncEngine) -> None:
    weights = SvfWeights(tiny_model)
    specs = (_spec(steps=1), _spec(steps=3, seed=8))
    experts = [
        ExpertInTraining(weights, _task(name), spec, name) for name, spec in zip(("short", "long"), specs, strict=True)
    ]
    learner = Learner(weights, engine, experts)
    before = engine.stats()
    steps = [learner.step() for _ in range(3)]
    assert [[report.expert for report in step] for step in steps] == [["short", "long"], ["long"], ["long"]]
    assert all(expert.done for expert in experts)
    after = engine.stats()
    assert after.known_z == before.known_z, "a z was left in the engine"
    assert after.peak_batch >= 24, "the experts' answers did not share a batch"


@pytest.mark.parametrize("kl", [0.1, 0.0])
def test_one_expert_that_diverges_stops_all_before_any_is_changed(
    tiny_model: SvfModel, engine: SyncEngine, kl: float
) -> None:
    """Also where the divergence has a limit and no weight."""
    weights = SvfWeights(tiny_model)
    experts = [
        ExpertInTraining(weights, _task(name), _spec(kl=kl, kl_limit=limit), name)
        for name, limit in (("near", 1e9), ("far", 1e-9))
    ]
    learner = Learner(weights, engine, experts)
    with torch.no_grad():
        for expert in experts:
            expert.p.add_(torch.linspace(-1, 1, expert.p.numel()))
    before = [expert.p.detach().clone() for expert in experts]
    samples = learner.sample()
    with pytest.raises(TrainingDiverged, match=r"'far', step 1: .*divergence.*kl_limit is 1e-09") as raised:
        learner.learn(samples)
    assert raised.value.expert == "far"
    assert all(torch.equal(expert.p, p) for expert, p in zip(experts, before, strict=True))
    assert issubclass(TrainingDiverged, InvalidZ)


# Answers of an older z


def _stale(weights: SvfWeights, engine: SyncEngine, staleness: int) -> tuple[Learner, ExpertInTraining]:
    expert = ExpertInTraining(weights, _task(), _spec(lr=0.2, staleness=staleness))
    return Learner(weights, engine, [expert]), expert


def _run(learner: Learner, steps: int) -> list[StepReport]:
    try:
        return [learner.step()[0] for _ in range(steps)]
    finally:
        learner.close()


def test_answers_are_as_old_as_the_spec_says_and_a_resume_asks_for_the_same(
    tiny_model: SvfModel, engine: SyncEngine, tmp_path: Path
) -> None:
    weights = SvfWeights(tiny_model)
    learner, whole = _stale(weights, engine, 2)
    ages, staleness = [], []
    for _ in range(STEPS):
        samples = learner.sample()
        ages += [(batch.step, {rollout.z_step for rollout in batch.rollouts}) for batch in samples.batches]
        staleness += [report.staleness for report in learner.learn(samples)]
    learner.close()
    assert staleness == [0, 1, 2, 2, 2]
    assert ages == [(1, {0}), (2, {0}), (3, {0}), (4, {1}), (5, {2})]

    learner, half = _stale(weights, engine, 2)
    _run(learner, 3)
    kept = half.checkpoint().to_bytes()
    learner, resumed = _stale(weights, engine, 2)
    resumed.restore(Checkpoint.from_bytes(kept, "kept", ""))
    _run(learner, STEPS - 3)
    assert torch.equal(resumed.p, whole.p)

    learner, fresh = _stale(weights, engine, 0)
    _run(learner, STEPS)
    assert not torch.allclose(fresh.p, whole.p), "staleness changed nothing"


# Validation


def test_the_best_by_validation_is_kept_and_patience_ends_a_run(tiny_model: SvfModel, engine: SyncEngine) -> None:
    def falls(completion: str, sample: Sample) -> Grade:
        return Grade(-1.0 if "a" in completion else 1.0)

    weights = SvfWeights(tiny_model)
    task = _task()
    spec = _spec(steps=40, lr=0.3, validate_every=2, validation_samples=3, patience=2)
    expert = ExpertInTraining(weights, task, spec)
    assert {s.prompt for s in expert.validation}.isdisjoint(s.prompt for s in expert.task.train)
    assert len(expert.validation) + len(expert.task.train) == len(task.train)
    learner = Learner(weights, engine, [expert])
    scores = {0: learner.measure(expert, expert.validation, None).reward}
    while not expert.done:
        (report,) = learner.step()
        assert (report.validation is not None) == (report.step % 2 == 0)
        if report.validation is not None:
            scores[report.step] = report.validation
    best = max(scores.values())
    assert expert.selection.score == best
    assert expert.selection.step == min(step for step, score in scores.items() if score == best)
    assert learner.measure(expert, expert.validation, expert.selected_p).reward == best
    assert expert.steps_done < 40, "patience did not end the run"
    with pytest.raises(TaskError, match="empty train split"):
        ExpertInTraining(weights, task, _spec(validate_every=1, validation_samples=100))


# What SVF is compared with


def test_supervised_learning_learns_the_reference_answers(tiny_model: SvfModel, engine: SyncEngine) -> None:
    weights = SvfWeights(tiny_model)
    spec = LearnerSpec(objective="supervised", steps=30, prompts_per_step=8, lr=0.1, schedule="linear")
    expert = ExpertInTraining(weights, _task(), spec)
    learner = Learner(weights, engine, [expert])
    generated = engine.stats().generated_tokens
    norms = [learner.step()[0].grad_norm for _ in range(30)]
    assert engine.stats().generated_tokens == generated, "supervised learning sampled answers"
    right = learner.measure(expert, expert.task.test, expert.selected_p)
    assert right.n == 8
    assert norms[-1] < norms[0] / 2, norms
    unanswered = Task("none", (Sample("s", "flip ab"),), (), PromptTemplate(), Contains("a"), 4)
    with pytest.raises(TaskError, match="sample s has no reference answer"):
        Learner(weights, engine, [ExpertInTraining(weights, unanswered, spec)]).step()


def test_lora_learns_in_the_same_loop(tiny_folder: Path) -> None:
    weights = LoraWeights(load_base(tiny_folder), "all", rank=2, alpha=4)
    spec = _spec(steps=30, prompts_per_step=8, samples_per_prompt=4, lr=0.02, kl=0.01, estimator="rloo")
    expert = ExpertInTraining(weights, _task(value="e"), spec)
    plain = load_base(tiny_folder).model
    ids = torch.tensor([[1, 8, 30, 31]])
    assert torch.allclose(weights.model.base.model(ids).logits, plain(ids).logits), "it does not begin at the base"
    with SyncEngine(TorchEngine(weights.model, EngineSpec(slots=64))) as engine:
        learner = Learner(weights, engine, [expert])
        reports = [learner.step()[0] for _ in range(30)]
    rewards = [report.reward or 0.0 for report in reports]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.5, rewards
    assert reports[0].kl == pytest.approx(0, abs=1e-5)
    assert reports[-1].kl > 0.01
    with weights.reference_policy():
        assert torch.allclose(weights.model.base.model(ids).logits, plain(ids).logits), "the reference is not the base"
    assert not torch.allclose(weights.model.base.model(ids).logits, plain(ids).logits)
    with pytest.raises(ValueError, match="learns 1 at once, not 2"):
        Learner(weights, engine, [expert, expert])
