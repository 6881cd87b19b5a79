"""Checkpoints: learning goes on from them bit for bit, and damaged ones are refused."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import CheckpointError
from zfleet.models.base import load_base
from zfleet.models.matrices import target_matrices
from zfleet.models.svf_model import SvfModel
from zfleet.rl.checkpoint import Checkpoint
from zfleet.rl.lora import LoraWeights
from zfleet.svf.cache import FactorCache
from zfleet.testing.solo import SPEC, Solo, solo, vowels_task


def test_learning_raises_the_reward_and_resumes_bit_for_bit_in_a_new_process(tiny_folder: Path, tmp_path: Path) -> None:
    learner = _open(tiny_folder, tmp_path)
    reports = [learner.step() for _ in range(20)]
    learner.learner.engine.close()
    whole = learner.expert.checkpoint()
    rewards = [report.reward or 0.0 for report in reports]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.5, rewards
    assert all(report.samples == 32 and report.tokens <= 4 * 32 and report.kl == 0 for report in reports)

    half = _open(tiny_folder, tmp_path)
    for _ in range(10):
        half.step()
    (tmp_path / "half").write_bytes(half.expert.checkpoint().to_bytes())
    half.learner.engine.close()
    script = [sys.executable, __file__, str(tiny_folder), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    resumed = _load(tmp_path / "resumed")
    assert resumed.step == whole.step == 20
    assert [key for key in whole.tensors if not torch.equal(whole.tensors[key], resumed.tensors[key])] == []
    assert done.stdout.strip() == learner.z.digest
    assert half.z.digest != learner.z.digest


def test_learning_leaves_the_random_numbers_of_its_process_alone(
    tiny_model: SvfModel, engine: SyncEngine, tiny_folder: Path
) -> None:
    """A cohort's experts share a process: what one draws or restores must not move another."""
    before = torch.get_rng_state(), random.getstate()
    learner = solo(tiny_model, engine, vowels_task(), SPEC)
    learner.step()
    learner.expert.restore(learner.expert.checkpoint())
    first, second = (LoraWeights(load_base(tiny_folder), "mlp", rank=2, alpha=4).start(SPEC) for _ in range(2))
    assert torch.equal(first, second), "the start does not follow from the seed"
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def _state(tiny_model: SvfModel, engine: SyncEngine) -> Checkpoint:
    learner = solo(tiny_model, engine, vowels_task(), SPEC)
    learner.step()
    return learner.expert.checkpoint()


def test_a_checkpoint_of_other_factors_or_sizes_is_refused(tiny_model: SvfModel, engine: SyncEngine) -> None:
    state = _state(tiny_model, engine)
    learner = solo(tiny_model, engine, vowels_task(), SPEC)
    tensors: dict[str, Tensor] = {**state.tensors, "p": state.tensors["p"][:-1]}
    for other in (replace(state, factors="0" * 64), replace(state, tensors=tensors)):
        with pytest.raises(CheckpointError, match="factors"):
            learner.expert.restore(other)
    assert learner.expert.steps_done == 0


def test_a_damaged_checkpoint_is_refused(tiny_model: SvfModel, engine: SyncEngine) -> None:
    data = _state(tiny_model, engine).to_bytes()
    damaged = [data[:length] for length in (0, 7, 200, len(data) // 2, len(data) - 1)]
    for place in range(0, len(data), len(data) // 150):
        damaged.append(data[:place] + bytes([data[place] ^ 0x04]) + data[place + 1 :])
    for content in damaged:
        with pytest.raises(CheckpointError, match="the file is truncated or damaged") as refused:
            Checkpoint.from_bytes(content, "the file", "delete it")
        assert refused.value.remedy == "delete it"


def _open(folder: Path, root: Path) -> Solo:
    """A learner on a model of its own; the factors are those under ``root``."""
    torch.set_num_threads(1)
    base = load_base(folder)
    model = SvfModel(base, FactorCache(root / "factors").get(target_matrices(folder, base.fingerprint)))
    return solo(model, SyncEngine(TorchEngine(model, EngineSpec(slots=64))), vowels_task(), SPEC)


def _load(path: Path) -> Checkpoint:
    return Checkpoint.from_bytes(path.read_bytes(), str(path), "")


def _resume(folder: Path, root: Path) -> None:
    learner = _open(folder, root)
    learner.expert.restore(_load(root / "half"))
    for _ in range(10):
        learner.step()
    (root / "resumed").write_bytes(learner.expert.checkpoint().to_bytes())
    print(learner.z.digest)
    learner.learner.engine.close()


if __name__ == "__main__":
    _resume(Path(sys.argv[1]), Path(sys.argv[2]))
