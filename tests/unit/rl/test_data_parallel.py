"""Two workers on one batch are one worker on the whole batch."""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import NotThisTask, RewardError
from zfleet.models.base import load_base
from zfleet.models.matrices import target_matrices
from zfleet.models.sharded import open_sharded
from zfleet.models.svf_model import SvfModel
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner, MeanGradients
from zfleet.rl.report import SampleSums
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import SvfWeights
from zfleet.svf.cache import FactorCache
from zfleet.svf.linear import SvfLinear
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FakeEngine
from zfleet.testing.two_ranks import as_two_ranks, of_both, run_two_ranks

CASES: dict[str, tuple[dict[str, str], ...]] = {
    **{estimator: ({"estimator": estimator},) for estimator in ("reinforce", "batch", "rloo", "grpo")},
    "penalised": ({"estimator": "rloo", "kl_in": "reward"},),
    "cohort": ({"estimator": "rloo"}, {"estimator": "batch", "kl_in": "reward"}),
}
"""Experts, by what they differ in; the first of each has the whole batch, a second one the same again."""
PROMPTS, SAMPLES = 7, 3  # seven: the workers' shares differ in size


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_whole_prompts_in_order(count: int, size: int) -> None:
    prompts = list(range(count))
    shares = [DataParallel(rank, size).share(prompts) for rank in range(size)]
    assert [prompt for _, share in shares for prompt in share] == prompts
    for first, share in shares:
        assert list(share) == prompts[first : first + len(share)]
    lengths = [len(share) for _, share in shares]
    assert max(lengths) == -(-count // size)
    if count % size == 0:
        assert min(lengths) == max(lengths)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 5))
def test_groups_never_straddle_workers(count: int, samples: int, size: int) -> None:
    prompts = [Sample(str(place), "p") for place in range(count)]
    owners: dict[int, set[int]] = {}
    for rank in range(size):
        first, share = DataParallel(rank, size).share(prompts)
        for group in range(first, first + len(share)):
            for _ in range(samples):
                owners.setdefault(group, set()).add(rank)
    assert sorted(owners) == list(range(count))
    assert all(len(ranks) == 1 for ranks in owners.values())


def test_a_worker_alone_sends_nothing() -> None:
    assert DataParallel().sum(torch.ones(2)).tolist() == [1.0, 1.0]
    assert not torch.distributed.is_initialized()


@pytest.fixture(scope="module")
def gradients(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What one worker gives for the whole batch, and each of two for its share."""
    root = tmp_path_factory.mktemp("workers")
    alone = _measure(tiny_folder, root, DataParallel())
    run_two_ranks(__file__, str(tiny_folder), str(root))
    return [alone, *of_both(root), *of_both(root, "split-{}.safetensors")]


@pytest.mark.parametrize("case", CASES)
def test_two_workers_have_the_gradient_of_one_on_the_whole_batch(gradients: list[dict[str, Tensor]], case: str) -> None:
    alone, *both = gradients[:3]
    expected = alone[f"{case}/gradient"]
    largest = float(expected.abs().max())
    assert largest > 1e-2, "there is nothing to compare"
    for worker in both:
        assert float((worker[f"{case}/gradient"] - expected).abs().max()) <= 1e-5 * largest
        assert torch.allclose(worker[f"{case}/sums"], alone[f"{case}/sums"], rtol=1e-6)
        share = worker[f"{case}/share"]
        assert float((share - expected).abs().max()) > 1e-2 * largest, "a share alone would have passed"
    # Clipping and Adam follow the all-reduce, so the workers stay equal bit for bit.
    assert torch.equal(both[0][f"{case}/p"], both[1][f"{case}/p"])
    assert torch.allclose(both[0][f"{case}/p"], alone[f"{case}/p"], atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_two_workers_that_hold_half_of_the_base_each_have_that_gradient_too(
    gradients: list[dict[str, Tensor]], case: str
) -> None:
    """In more micro-batches than one, and not as many on each."""
    alone, *both = gradients[0], *gradients[3:]
    expected = alone[f"{case}/gradient"]
    for worker in both:
        assert int(worker["bytes"]) < 0.6 * int(alone["bytes"])
        assert float((worker[f"{case}/gradient"] - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
        assert torch.allclose(worker[f"{case}/sums"], alone[f"{case}/sums"], rtol=1e-5)
    assert torch.equal(both[0][f"{case}/p"], both[1][f"{case}/p"])


def test_a_share_of_which_nothing_is_graded_is_no_error(tiny_model: SvfModel) -> None:
    """The reward grades the first half alone, which is the first worker's; neither half is measured otherwise than as
    a part of the whole."""

    def first_half(completion: str, sample: Sample) -> Grade:
        if int(sample.id) >= 4:
            raise NotThisTask("none of its task's")
        return Grade(len(completion) / 10)

    samples = tuple(Sample(str(place), f"sort b{place}") for place in range(8))
    task = Task("half", samples, samples, PromptTemplate(), first_half, 4)
    weights = SvfWeights(tiny_model)
    with SyncEngine(TorchEngine(tiny_model, EngineSpec(slots=8))) as engine:
        expert = ExpertInTraining(weights, task, LearnerSpec(prompts_per_step=8))
        whole = Learner(weights, engine, [expert]).measure(expert, samples, None, temperature=1.0)
        assert (whole.n, whole.rewards[4:]) == (4, (None,) * 4)
        shares = [_Share(rank, 2) for rank in (0, 1)]
        rewards = []
        for share in shares:
            learner = Learner(weights, engine, [expert], share)
            with suppress(RewardError):  # of the second, who is alone here
                rewards.append(learner.measure(expert, samples, None, temperature=1.0).rewards)
        assert rewards == [whole.rewards[:4]]
        assert [share.summed[2] for share in shares] == [4, 0]
        with pytest.raises(RewardError, match="the reward of half graded none of 4 held-out prompts"):
            Learner(weights, engine, [expert]).measure(expert, samples[4:], None)


@dataclass(frozen=True)
class _Share(DataParallel):
    """A worker whose sums stay its own."""

    summed: list[float] = field(default_factory=list)

    def sum(self, tensor: Tensor) -> Tensor:
        self.summed[:] = tensor.tolist()
        return tensor


def test_sums_count_every_sample_once(gradients: list[dict[str, Tensor]]) -> None:
    rollouts = _recorded()
    sums = SampleSums(gradients[1]["rloo/sums"][0], ())
    assert (sums.graded, sums.used, sums.truncated) == (PROMPTS * SAMPLES, PROMPTS * SAMPLES, 0)
    assert sums.tokens == sum(len(rollout.completion) for rollout in rollouts)
    assert sums.reward == pytest.approx(sum(rollout.reward for rollout in rollouts) / (PROMPTS * SAMPLES))
    assert sums.divergence > 0


def _recorded() -> list[Rollout]:
    rng = random.Random(3)
    rollouts = []
    for group in range(PROMPTS):
        prompt = tuple(rng.randrange(5, 60) for _ in range(rng.randrange(2, 9)))
        for _ in range(SAMPLES):
            completion = tuple(rng.randrange(5, 60) for _ in range(rng.randrange(1, 6)))
            rollouts.append(
                Rollout(Sample(str(group), ""), group, prompt, completion, "", Grade(rng.choice([-1.0, 1.0, 0.5])))
            )
    return rollouts


def _measure(folder: Path, root: Path, workers: DataParallel, mesh: DeviceMesh | None = None) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    base, cache = load_base(folder), FactorCache(root / "factors")
    factors = cache.get(target_matrices(folder, base.fingerprint))
    if mesh is None:
        model = SvfModel(base, factors)
    else:
        model = open_sharded(base, cache.folder(base.fingerprint, "all"), "all", mesh)
    task = Task("none", (), (), PromptTemplate(), lambda completion, sample: Grade(0.0), 4)
    first, share = workers.share(list(range(PROMPTS)))
    mine = [rollout for rollout in _recorded() if first <= rollout.group < first + len(share)]
    found = {"bytes": torch.tensor(_bytes(model))}
    with SyncEngine(FakeEngine()) as engine:
        for case, differences in CASES.items():
            weights = SvfWeights(model)
            experts = [ExpertInTraining(weights, task, _spec(mesh is not None, **own)) for own in differences]
            for number, expert in enumerate(experts):
                with torch.no_grad():
                    chance = torch.Generator().manual_seed(number)
                    expert.p.copy_(0.5 * torch.randn(expert.p.shape, generator=chance))
            both = _gradients(Learner(weights, engine, experts, workers), mine)
            found[f"{case}/gradient"] = torch.cat(list(both.each))
            found[f"{case}/sums"] = torch.stack([sums.values for sums in both.sums])
            if mesh is None:
                found[f"{case}/share"] = torch.cat(list(_gradients(Learner(weights, engine, experts), mine).each))
            for expert, gradient in zip(experts, both.each, strict=True):
                expert.apply(gradient)
            found[f"{case}/p"] = torch.cat([expert.p.detach() for expert in experts])
    return found


def _bytes(model: SvfModel) -> int:
    """Of what this process holds of the linears' factors."""
    linears = [part for part in model.base.model.modules() if isinstance(part, SvfLinear)]
    held = [tensor for linear in linears for tensor in (linear.us, linear.vh)]
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in held]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def _spec(small: bool, **values: str) -> LearnerSpec:
    settings = {"kl": 0.3, "samples_per_prompt": SAMPLES, "clip": 0.1, "micro_batch_tokens": 40 if small else 8192}
    return LearnerSpec.model_validate(settings | values)


def _gradients(learner: Learner, rollouts: list[Rollout]) -> MeanGradients:
    return learner.mean_gradients(learner.compare(learner.experts, [rollouts for _ in learner.experts]))


def _work(folder: Path, root: Path, rank: int) -> None:
    store = f"file://{root / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    safetensors.torch.save_file(_measure(folder, root, DataParallel(rank, 2)), root / f"{rank}.safetensors")
    split = _measure(folder, root, DataParallel(rank, 2), init_device_mesh("cpu", (2,)))
    safetensors.torch.save_file(split, root / f"split-{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    as_two_ranks(lambda rank: _work(Path(sys.argv[1]), Path(sys.argv[2]), rank))
