"""The learning loop: seeds, checkpoints, and what stops it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import EngineSpec
from zfleet.engine.sync import SyncEngine
from zfleet.engine.torch_engine import TorchEngine
from zfleet.errors import CheckpointError, InvalidZ, RewardError, TrainingDiverged
from zfleet.models.base import load_base
from zfleet.models.matrices import target_matrices
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_logits
from zfleet.rewards.python import PythonReward
from zfleet.rewards.weighted import Part, Weighted
from zfleet.rl.advantages import ESTIMATORS
from zfleet.rl.checkpoint import LearnerState
from zfleet.rl.learner import Learner
from zfleet.rl.member import Member
from zfleet.rl.report import StepReport
from zfleet.rl.rollout import Rollout, Turn, draw_prompts, roll_out, seed_of
from zfleet.rl.weights import SvfWeights
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Grade, Reward, Sample, Task, Ungraded, verdict
from zfleet.tasks.template import PromptTemplate

WORDS = ("flip bca", "reverse hello", "sort ab", "add 3 4", "turn xyz", "order qwe", "flip aa", "sort zyx")
SPEC = LearnerSpec(steps=20, prompts_per_step=8, samples_per_prompt=4, estimator="rloo", lr=0.1, seed=5)


@dataclass(frozen=True)
class HasVowel:
    """A reward that the random base gets right now and then."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        return verdict(bool(set(completion) & set("aei")), None, "")


def _task(reward: Reward | None = None) -> Task:
    samples = tuple(Sample(f"s{place}", word) for place, word in enumerate(WORDS))
    return Task("vowels", samples, samples, PromptTemplate(), reward or HasVowel(), max_tokens=4)


def _python(function: Callable[[str, Sample], object]) -> PythonReward:
    return PythonReward("mine:function", function)


@dataclass(frozen=True)
class Solo:
    """A learner of one expert."""

    learner: Learner
    member: Member
    weights: SvfWeights

    @property
    def z(self) -> ZVector:
        return self.weights.z(self.member.spec, self.member.p)

    def step(self) -> StepReport:
        (report,) = self.learner.step()
        return report


def _solo(
    model: SvfModel, engine: SyncEngine, task: Task, spec: LearnerSpec, skip_failed_rewards: bool = False
) -> Solo:
    weights = SvfWeights(model)
    member = Member(weights, task, spec, "vowels", skip_failed_rewards)
    return Solo(Learner(weights, engine, [member]), member, weights)


@pytest.fixture(scope="module")
def engine(tiny_model: SvfModel) -> Iterator[SyncEngine]:
    with SyncEngine(TorchEngine(tiny_model, EngineSpec(slots=64))) as engine:
        yield engine


# Prompts, seeds, rewards


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(0, 3), st.lists(st.integers(1, 7), min_size=1, max_size=12))
def test_each_epoch_draws_every_prompt_once(size: int, seed: int, counts: list[int]) -> None:
    samples = [Sample(str(place), "p") for place in range(size)]
    drawn: list[Sample] = []
    for count in counts:
        drawn += draw_prompts(samples, seed, len(drawn), count)
    assert len(drawn) == sum(counts)
    for epoch in range(len(drawn) // size):
        assert Counter(s.id for s in drawn[epoch * size : (epoch + 1) * size]) == Counter(s.id for s in samples)
    assert drawn == draw_prompts(samples, seed, 0, sum(counts))


def test_epochs_are_shuffled_anew() -> None:
    samples = [Sample(str(place), "p") for place in range(20)]
    orders = [tuple(s.id for s in draw_prompts(samples, seed, at, 20)) for seed, at in ((0, 0), (0, 20), (1, 0))]
    assert len(set(orders)) == 3


def test_seeds_differ_in_every_part() -> None:
    seeds = {seed_of(run, step, prompt, k) for run in (0, 1) for step in (0, 1) for prompt in "ab" for k in (0, 1)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_rollouts_do_not_depend_on_the_split(tiny_model: SvfModel, make_z: Callable[..., ZVector]) -> None:
    task = _task()
    samples = [*task.train, *task.train[:2]]
    tokenizer = tiny_model.base.tokenizer
    with SyncEngine(TorchEngine(tiny_model, EngineSpec(slots=64))) as wide:
        z = wide.put_z(make_z(1))
        (whole,) = roll_out(wide, tokenizer, [Turn(task, SPEC, samples, 3, z)])
    with SyncEngine(TorchEngine(tiny_model, EngineSpec(slots=3))) as narrow:
        narrow.put_z(make_z(1))
        parts = []
        for start, end in ((7, 10), (0, 1), (1, 7)):
            parts += roll_out(narrow, tokenizer, [Turn(task, SPEC, samples[start:end], 3, z, first_group=start)])[0]
    assert sorted(parts, key=lambda rollout: rollout.group) == whole
    assert len({rollout.completion for rollout in whole}) > len(samples), "nothing was sampled"
    twice = [rollout.completion for rollout in whole if rollout.sample.id == "s0"]
    assert twice[:4] != twice[4:], "a prompt that comes twice in a step got the same answers"


def test_the_random_reward_does_not_look_at_answers(tiny_model: SvfModel, engine: SyncEngine) -> None:
    def refuse(completion: str, sample: Sample) -> Grade:
        raise AssertionError("the task's reward was asked")

    spec = SPEC.model_copy(update={"reward": "random", "samples_per_prompt": 16})
    other = engine.put_z(_pushed(tiny_model))
    turns = [Turn(_task(refuse), spec, _task().train, 0, z) for z in ("base", other)]
    first, second = roll_out(engine, tiny_model.base.tokenizer, turns)
    assert [r.completion for r in first] != [r.completion for r in second]
    assert [r.grade for r in first] == [r.grade for r in second]
    counts = Counter(r.reward for r in first)
    assert counts.keys() == {1.0, -1.0}
    assert min(counts.values()) > 40


def test_a_raising_reward_names_the_sample_and_leaves_the_learner_as_it_was(
    tiny_model: SvfModel, engine: SyncEngine
) -> None:
    def fails_on_s3(completion: str, sample: Sample) -> float:
        if sample.id == "s3":
            raise ValueError("no such grade")
        return 1.0

    known = engine.stats().known_z
    learner = _solo(tiny_model, engine, _task(_python(fails_on_s3)), SPEC)
    before = learner.member.p.detach().clone()
    with pytest.raises(RewardError, match=r"sample s3 .*no such grade") as refused:
        learner.step()
    assert "skip" in refused.value.remedy
    assert learner.member.steps_done == 0
    assert torch.equal(learner.member.p, before)
    assert engine.stats().known_z == known, "the z of the failed step was not dropped"

    going_on = _solo(tiny_model, engine, _task(_python(fails_on_s3)), SPEC, skip_failed_rewards=True)
    assert going_on.step().samples == 7 * 4
    nothing_left = _solo(tiny_model, engine, _task(_python(_raises)), SPEC, skip_failed_rewards=True)
    report = nothing_left.step()
    assert (report.samples, report.reward, report.grad_norm) == (0, None, 0.0)
    assert torch.equal(nothing_left.member.p, before)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_gradient_that_is_not_finite_stops_and_changes_nothing(
    tiny_model: SvfModel, engine: SyncEngine, estimator: str
) -> None:
    learner = _solo(tiny_model, engine, _task(), SPEC.model_copy(update={"estimator": estimator}))
    learner.step()
    before = learner.member.state()
    learner.member.task = _task(_python(lambda completion, sample: 1e300))
    with pytest.raises(InvalidZ, match="step 2"):
        learner.step()
    after = learner.member.state()
    assert after.step == before.step
    assert all(torch.equal(after.tensors[key], before.tensors[key]) for key in ("p", "exp_avg", "exp_avg_sq"))


def test_kl_pulls_towards_the_base(tiny_model: SvfModel, engine: SyncEngine) -> None:
    spec = SPEC.model_copy(update={"kl": 1.0, "lr": 0.05, "samples_per_prompt": 2})
    learner = _solo(tiny_model, engine, _task(_python(lambda completion, sample: 0.0)), spec)
    at_base = learner.step()
    assert at_base.kl == pytest.approx(0.0, abs=1e-4)
    assert at_base.grad_norm == pytest.approx(0.0, abs=1e-4)
    with torch.no_grad():
        learner.member.p.copy_(0.3 * torch.randn(learner.member.p.shape, generator=torch.Generator().manual_seed(0)))
    reports = [learner.step() for _ in range(15)]
    assert reports[0].kl > 0.1
    assert reports[-1].kl < reports[0].kl / 2, [r.kl for r in reports]


def test_in_bfloat16_the_base_does_not_diverge_from_itself(tiny_folder: Path, tiny_factors: Factors) -> None:
    """In bfloat16 the base on its factors is not W rounded: it is no divergence."""
    model = SvfModel(load_base(tiny_folder, dtype=torch.bfloat16), tiny_factors)
    spec = SPEC.model_copy(update={"kl": 1.0, "kl_limit": 1e-3})
    with SyncEngine(TorchEngine(model, EngineSpec(slots=64))) as engine:
        report = _solo(model, engine, _task(_python(lambda completion, sample: 0.0)), spec).step()
    assert report.kl < 1e-5


def test_what_a_reward_loses_to_the_divergence_is_in_the_average_that_it_is_compared_with(
    tiny_model: SvfModel, engine: SyncEngine
) -> None:
    spec = SPEC.model_copy(update={"estimator": "ema", "kl": 5.0, "kl_in": "reward", "lr": 0.01})
    learner = _solo(tiny_model, engine, _task(_python(lambda completion, sample: 1.0)), spec)
    with torch.no_grad():
        learner.member.p.copy_(0.3 * torch.randn(learner.member.p.shape, generator=torch.Generator().manual_seed(0)))
    report = learner.step()
    assert learner.member.mean_reward == pytest.approx(1.0 - 5.0 * report.kl, rel=1e-4)
    assert report.kl > 0.1
    assert report.reward == 1.0


def test_a_z_that_no_engine_takes_ends_the_run_at_its_step(tiny_model: SvfModel, engine: SyncEngine) -> None:
    learner = _solo(tiny_model, engine, _task(), SPEC.model_copy(update={"parametrisation": "exp", "lr": 200.0}))
    with pytest.raises(TrainingDiverged, match=r"'vowels', step 1: .*finite") as told:
        learner.step()
    assert "lower learner.lr" in told.value.remedy


def test_a_step_with_nothing_to_learn_from_leaves_z_where_it_is(tiny_model: SvfModel, engine: SyncEngine) -> None:
    learner = _solo(tiny_model, engine, _task(), SPEC.model_copy(update={"equal_groups": "leave_out"}))
    assert learner.step().used > 0
    before = learner.member.p.detach().clone()
    learner.member.task = _task(_python(lambda completion, sample: 1.0))
    report = learner.step()
    assert (report.step, report.samples, report.used) == (2, 32, 0)
    assert torch.equal(learner.member.p, before), "momentum moved it"


def test_samples_without_a_grade_are_recorded_and_counted(tiny_model: SvfModel, engine: SyncEngine) -> None:
    def some(completion: str, sample: Sample) -> float | None:
        if sample.id == "s0":
            raise ValueError("cannot be graded")
        return None if sample.id == "s1" else 1.0

    learner = _solo(tiny_model, engine, _task(_python(some)), SPEC, skip_failed_rewards=True)
    kept: list[tuple[Rollout, float]] = []

    def record(member: Member, step: int, rollouts: Sequence[Rollout], advantages: Tensor) -> str:
        kept.extend(zip(rollouts, advantages.tolist(), strict=True))
        return ""

    learner.learner._record = record
    report = learner.step()
    assert (report.samples, report.skipped, report.used) == (6 * 4, 2 * 4, 6 * 4)
    assert report.tokens == sum(len(rollout.completion) for rollout, _ in kept)
    reasons = {rollout.sample.id: rollout.grade.reason for rollout, _ in kept if isinstance(rollout.grade, Ungraded)}
    assert reasons.keys() == {"s0", "s1"}
    assert "cannot be graded" in reasons["s0"]
    assert "none of its task's" in reasons["s1"]
    assert {rollout.sample.id for rollout, advantage in kept if math.isnan(advantage)} == {"s0", "s1"}


def test_the_policy_is_what_was_sampled_from(tiny_model: SvfModel) -> None:
    sampled = completion_logits(tiny_model, [(1, 7, 9)], [(8, 6)], None)
    expected = torch.log_softmax(sampled.logits / 0.5, -1).gather(-1, sampled.targets.unsqueeze(-1)).squeeze(-1)
    assert torch.equal(sampled.logprobs(0.5), expected)
    assert not torch.allclose(sampled.logprobs(0.5), sampled.logprobs())


def test_a_part_counts_over_the_samples_that_it_grades(tiny_model: SvfModel, engine: SyncEngine) -> None:
    def some(completion: str, sample: Sample) -> float | None:
        return 1.0 if sample.id in ("s1", "s2") else None

    parts = [Part(name, 1.0, _python(function)) for name, function in {"some": some, "none": lambda *_: None}.items()]
    report = _solo(tiny_model, engine, _task(Weighted((*parts, Part("vowels", 1.0, HasVowel())))), SPEC).step()
    assert report.parts.keys() == {"some", "vowels"}
    assert report.parts["some"] == 1.0
    assert report.reward == pytest.approx(report.parts["vowels"] + 2 / len(WORDS))


# Checkpoints


def test_learning_raises_the_reward_and_resumes_bit_for_bit_in_a_new_process(tiny_folder: Path, tmp_path: Path) -> None:
    learner = _open(tiny_folder, tmp_path)
    reports = [learner.step() for _ in range(20)]
    learner.learner.engine.close()
    whole = learner.member.state()
    rewards = [report.reward or 0.0 for report in reports]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.5, rewards
    assert all(report.samples == 32 and report.tokens <= 4 * 32 and report.kl == 0 for report in reports)

    half = _open(tiny_folder, tmp_path)
    for _ in range(10):
        half.step()
    (tmp_path / "half").write_bytes(half.member.state().to_bytes())
    half.learner.engine.close()
    script = [sys.executable, __file__, str(tiny_folder), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    resumed = _load(tmp_path / "resumed")
    assert resumed.step == whole.step == 20
    assert resumed.python_rng == tuple(json.loads(json.dumps(whole.python_rng)))
    assert [key for key in whole.tensors if not torch.equal(whole.tensors[key], resumed.tensors[key])] == []
    assert done.stdout.strip() == learner.z.digest
    assert half.z.digest != learner.z.digest


def _state(tiny_model: SvfModel, engine: SyncEngine) -> LearnerState:
    learner = _solo(tiny_model, engine, _task(), SPEC)
    learner.step()
    return learner.member.state()


def test_a_checkpoint_of_other_factors_or_sizes_is_refused(tiny_model: SvfModel, engine: SyncEngine) -> None:
    state = _state(tiny_model, engine)
    learner = _solo(tiny_model, engine, _task(), SPEC)
    tensors: dict[str, Tensor] = {**state.tensors, "p": state.tensors["p"][:-1]}
    for other in (replace(state, factors="0" * 64), replace(state, tensors=tensors)):
        with pytest.raises(CheckpointError, match="factors"):
            learner.member.restore(other)
    assert learner.member.steps_done == 0


def test_a_damaged_checkpoint_is_refused(tiny_model: SvfModel, engine: SyncEngine) -> None:
    data = _state(tiny_model, engine).to_bytes()
    damaged = [data[:length] for length in (0, 7, 200, len(data) // 2, len(data) - 1)]
    for place in range(0, len(data), len(data) // 150):
        damaged.append(data[:place] + bytes([data[place] ^ 0x04]) + data[place + 1 :])
    for content in damaged:
        with pytest.raises(CheckpointError, match="the file is truncated or damaged") as refused:
            LearnerState.from_bytes(content, "the file", "delete it")
        assert refused.value.remedy == "delete it"


def _raises(completion: str, sample: Sample) -> float:
    raise KeyError("grade")


def _pushed(model: SvfModel) -> ZVector:
    flat = 1 + 0.5 * torch.randn(model.layout.size, generator=torch.Generator().manual_seed(1))
    return model.z_from_flat(flat)


def _open(folder: Path, root: Path) -> Solo:
    """A learner on a model of its own; the factors are those under ``root``."""
    torch.set_num_threads(1)
    base = load_base(folder)
    model = SvfModel(base, FactorCache(root / "factors").get(target_matrices(folder, base.fingerprint)))
    return _solo(model, SyncEngine(TorchEngine(model, EngineSpec(slots=64))), _task(), SPEC)


def _load(path: Path) -> LearnerState:
    return LearnerState.from_bytes(path.read_bytes(), str(path), "")


def _resume(folder: Path, root: Path) -> None:
    learner = _open(folder, root)
    learner.member.restore(_load(root / "half"))
    for _ in range(10):
        learner.step()
    (root / "resumed").write_bytes(learner.member.state().to_bytes())
    print(learner.z.digest)
    learner.learner.engine.close()


if __name__ == "__main__":
    _resume(Path(sys.argv[1]), Path(sys.argv[2]))
