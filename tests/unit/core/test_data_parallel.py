"""Two workers on one batch are one worker on the whole batch."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zfleet.config.specs import LearnerSpec
from zfleet.engine.fake_engine import FakeEngine
from zfleet.engine.sync import SyncEngine
from zfleet.models.base import load_base
from zfleet.models.matrices import target_matrices
from zfleet.models.svf_model import SvfModel
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.learner import Learner
from zfleet.rl.rollout import Rollout
from zfleet.svf.cache import FactorCache
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate

ESTIMATORS = ("reinforce", "batch", "rloo", "grpo")
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
    script = [sys.executable, __file__, str(tiny_folder), str(root)]
    workers = [subprocess.Popen([*script, str(rank)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    try:
        errors = [worker.communicate(timeout=120)[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], errors
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [alone, *(safetensors.torch.load_file(root / f"{rank}.safetensors") for rank in (0, 1))]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_workers_have_the_gradient_of_one_on_the_whole_batch(
    gradients: list[dict[str, Tensor]], estimator: str
) -> None:
    alone, *both = gradients
    expected = alone[f"{estimator}/gradient"]
    largest = float(expected.abs().max())
    assert largest > 1e-2, "there is nothing to compare"
    for worker in both:
        assert float((worker[f"{estimator}/gradient"] - expected).abs().max()) <= 1e-5 * largest
        assert torch.allclose(worker[f"{estimator}/sums"], alone[f"{estimator}/sums"], rtol=1e-6)
        share = worker[f"{estimator}/share"]
        assert float((share - expected).abs().max()) > 1e-2 * largest, "a share alone would have passed"
    # Clipping and Adam follow the all-reduce, so the workers stay equal bit for bit.
    assert torch.equal(both[0][f"{estimator}/p"], both[1][f"{estimator}/p"])
    assert torch.allclose(both[0][f"{estimator}/p"], alone[f"{estimator}/p"], atol=1e-4)


def test_sums_count_every_sample_once(gradients: list[dict[str, Tensor]]) -> None:
    rollouts = _recorded()
    reward, kl, samples, tokens = gradients[1]["rloo/sums"].tolist()
    assert samples == PROMPTS * SAMPLES
    assert tokens == sum(len(rollout.completion) for rollout in rollouts)
    assert reward == pytest.approx(sum(rollout.grade.value for rollout in rollouts))
    assert kl > 0


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


def _measure(folder: Path, root: Path, workers: DataParallel) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    base = load_base(folder)
    model = SvfModel(base, FactorCache(root / "factors").get(target_matrices(folder, base.fingerprint)))
    task = Task("none", (), (), PromptTemplate(), lambda completion, sample: Grade(0.0), 4)
    first, share = workers.share(list(range(PROMPTS)))
    mine = [rollout for rollout in _recorded() if first <= rollout.group < first + len(share)]
    found: dict[str, Tensor] = {}
    with SyncEngine(FakeEngine()) as engine:
        for estimator in ESTIMATORS:
            spec = LearnerSpec.model_validate(
                {"estimator": estimator, "kl": 0.3, "samples_per_prompt": SAMPLES, "clip": 0.1}
            )
            learner = Learner(model, engine, task, spec, workers)
            with torch.no_grad():
                learner.p.copy_(0.5 * torch.randn(learner.p.shape, generator=torch.Generator().manual_seed(0)))
            alone = Learner(model, engine, task, spec)
            with torch.no_grad():
                alone.p.copy_(learner.p)
            gradient, sums = learner.gradient(mine)
            found |= {f"{estimator}/gradient": gradient.clone(), f"{estimator}/sums": sums}
            found[f"{estimator}/share"] = alone.gradient(mine)[0]
            learner._apply(gradient)
            found[f"{estimator}/p"] = learner.p.detach()
    return found


def _work(folder: Path, root: Path, rank: int) -> None:
    store = f"file://{root / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    safetensors.torch.save_file(_measure(folder, root, DataParallel(rank, 2)), root / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
