"""Training as real Ray Train runs on a tiny base: what is registered, and what survives a lost worker.

What a step learns is in tests/unit/rl. Here are real workers, because Ray Train decides when they start and what
becomes of a lost one, and their sums travel; all runs share one cluster and are compared with the same two experts.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from zfleet.engine.contract import EngineStats
from zfleet.errors import RewardError
from zfleet_jobs.testing.training import (
    CALLS,
    CALLS_FROM_STEP_5,
    GRADED,
    IN_STEP_5,
    STEPS,
    Place,
    contains,
    python,
    training_place,
)
from zfleet_jobs.train import run as train_run
from zfleet_jobs.train import trainer as train_trainer
from zfleet_jobs.train.plan import TrainedExpert
from zfleet_jobs.train.run import run_train
from zfleet_registry import Parent

GRADERS = f"""
def killed(completion, sample):
    if _at("killed", {IN_STEP_5}):
        os.kill(os.getpid(), signal.SIGKILL)
    return _grade(completion)


def killed_again(completion, sample):
    if _at("killed_again", {IN_STEP_5}):
        os.kill(os.getpid(), signal.SIGKILL)
    return _grade(completion)


def shot(completion, sample):
    _call("shot")
    time.sleep(0.02)
    return _grade(completion)


def raising(completion, sample):
    if _call("raising") > 20:
        raise ValueError("no grade for this")
    return 1.0


def skipping(completion, sample):
    if _call("skipping") == {IN_STEP_5}:
        raise ValueError("no grade for this")
    return _grade(completion)


def once(completion, sample):
    if _call("once") > 20 and _first("once"):
        raise ValueError("no grade for this")
    return 1.0
"""


@pytest.fixture(scope="module")
def place(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with training_place(tmp_path_factory.mktemp("train"), tiny_folder, GRADERS) as place:
        yield place


@pytest.fixture(scope="module")
def trained(place: Place, ray_cluster: None) -> list[TrainedExpert]:
    """Two experts, trained without any trouble."""
    return run_train(place.spec({"one": contains("a"), "two": contains("e")}))


def test_a_job_teaches_what_the_plain_loop_does(place: Place, trained: list[TrainedExpert]) -> None:
    assert trained[0].z_digest == place.undisturbed()


def test_experts_are_registered_with_provenance_and_curves(place: Place, trained: list[TrainedExpert]) -> None:
    assert [(expert.name, expert.reference) for expert in trained] == [("one", "one/1"), ("two", "two/1")]
    registry = place.registry
    assert len({expert.z_digest for expert in trained}) == 2
    for expert in trained:
        assert (expert.n, expert.left_out) == (GRADED, 2)
        assert expert.seconds > 0
        version = registry.resolve(f"{expert.name}@champion", place.slug)
        z = registry.load(version)
        assert z.digest == version.z_digest == expert.z_digest
        assert z.size == expert.parameters
        provenance = version.provenance
        assert (provenance.base, provenance.factors, provenance.targets) == (z.base, z.factors, "all")
        assert (provenance.task, len(provenance.data_digest)) == ("prompts", 64)
        assert json.loads(provenance.spec)["learner"]["steps"] == STEPS
        assert provenance.code_version.startswith("0.")
        assert provenance.metrics["reward_after"] == expert.reward_after
        assert version.run_id == expert.run_id
        for metric in ("reward", "grad_norm", "tokens_per_second"):
            assert [step for step, _ in registry.curve(expert.run_id, metric)] == list(range(1, STEPS + 1))
        assert registry.metrics(expert.run_id)["accuracy_before"] == expert.accuracy_before


def test_the_same_spec_trains_nothing_again(
    place: Place, trained: list[TrainedExpert], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(train_trainer, "TorchTrainer", refuse)
    again = run_train(place.spec({"one": contains("a"), "two": contains("e")}))
    assert [(e.reference, e.z_digest, e.seconds) for e in again] == [(e.reference, e.z_digest, 0.0) for e in trained]
    assert "2 of 38 prompts of prompts are left out" in caplog.text


def test_an_expert_begins_at_a_registered_version(place: Place, trained: list[TrainedExpert]) -> None:
    spec = place.spec({"further": contains("a")})
    learner = {"parametrisation": "direct", "steps": 2}
    begins = spec.experts[0].model_copy(update={"start": "one", "learner": learner})
    (expert,) = run_train(spec.model_copy(update={"experts": (begins,)}))
    assert expert.z_digest != trained[0].z_digest
    assert (expert.n, expert.reward_before) == (trained[0].n, trained[0].reward_after), "it began elsewhere"
    provenance = place.registry.resolve("further", place.slug).provenance
    assert provenance.kind == "expert"
    assert provenance.parents == (Parent("one/1", trained[0].z_digest, 1.0),)


def test_a_killed_worker_is_named_and_changes_nothing_in_the_result(
    place: Place, trained: list[TrainedExpert], caplog: pytest.LogCaptureFixture
) -> None:
    (expert,) = run_train(place.spec({"killed": python("killed")}))
    assert (place.root / "killed.reached").exists()
    calls = place.calls("killed")
    assert len(calls) == 2, "the worker was not killed, or more than once"
    (pid, first), (_, second) = calls.items()
    assert (first, second) == (IN_STEP_5, CALLS_FROM_STEP_5), "more than the step under way was repeated"
    assert f"expert killed: worker 0 (pid {pid} on {socket.gethostname()}) died; restarting from step 4" in caplog.text
    assert expert.z_digest == trained[0].z_digest
    assert expert.reward_after == trained[0].reward_after


def test_two_workers_learn_what_one_does(place: Place, trained: list[TrainedExpert]) -> None:
    (expert,) = run_train(place.spec({"pair": contains("a")}, num_workers=2))
    registry = place.registry
    one, pair = (registry.load(registry.resolve(name, place.slug)).values for name in ("one", "pair"))
    furthest = max(float((one[name] - 1).abs().max()) for name in one)
    assert max(float((one[name] - pair[name]).abs().max()) for name in one) < furthest / 100
    assert (expert.n, expert.reward_before) == (trained[0].n, trained[0].reward_before)
    rewards, expected = (dict(registry.curve(run, "reward")) for run in (expert.run_id, trained[0].run_id))
    assert rewards == pytest.approx(expected)


def test_a_cohort_learns_what_each_learns_alone_and_survives_its_worker(
    place: Place, trained: list[TrainedExpert], caplog: pytest.LogCaptureFixture
) -> None:
    """Two experts, and a third one of fewer steps; the worker is killed in the middle."""
    rewards = {"one-of-three": contains("a"), "killed-of-three": python("killed_again"), "two-of-three": contains("e")}
    spec = place.spec(rewards, cohort=3, recompute=True)
    short = spec.experts[2].model_copy(update={"learner": {"steps": 3}})
    cohort = run_train(spec.model_copy(update={"experts": (*spec.experts[:2], short)}))
    assert "expert one-of-three, killed-of-three, two-of-three: worker 0" in caplog.text
    registry = place.registry
    for expert, alone, steps in zip(cohort, (trained[0], trained[0], trained[1]), (STEPS, STEPS, 3), strict=True):
        curve = registry.curve(expert.run_id, "reward")
        assert [step for step, _ in curve] == list(range(1, steps + 1))
        assert dict(curve) == pytest.approx(dict(registry.curve(alone.run_id, "reward")[:steps]))
    one, *others = (
        registry.load(registry.resolve(name, place.slug)).values for name in ("one", "one-of-three", "killed-of-three")
    )
    furthest = max(float((one[name] - 1).abs().max()) for name in one)
    apart = [max(float((one[name] - z[name]).abs().max()) for name in one) for z in others]
    assert max(apart) < furthest / 100, apart


def test_a_base_split_over_two_workers_teaches_what_a_whole_one_does(
    place: Place, trained: list[TrainedExpert], one_replica: Callable[[ModuleType], list[EngineStats]]
) -> None:
    one_replica(train_run)
    # A spec wants `engine: vllm` for it: any engine with processes of its own serves.
    spec = place.spec({"split": contains("a")}, num_workers=2).model_copy(update={"split": True})
    (expert,) = run_train(spec)
    curves = (place.registry.curve(run, "reward") for run in (expert.run_id, trained[0].run_id))
    split, whole = map(dict, curves)
    assert split == pytest.approx(whole)


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.drill)])
def test_experts_that_share_a_pool_learn_what_they_learn_alone(
    place: Place,
    trained: list[TrainedExpert],
    one_replica: Callable[[ModuleType], list[EngineStats]],
    num_workers: int,
) -> None:
    left = one_replica(train_run)
    names = [f"{name}-pool-{num_workers}" for name in ("one", "two")]
    rewards = dict(zip(names, (contains("a"), contains("e")), strict=True))
    pooled = run_train(place.spec(rewards, num_workers=num_workers))
    registry = place.registry
    for expert, alone in zip(pooled, trained, strict=True):
        assert (expert.reward_before, expert.n) == (alone.reward_before, alone.n)
        curve = registry.curve(expert.run_id, "reward")
        assert dict(curve) == pytest.approx(dict(registry.curve(alone.run_id, "reward")))
        if num_workers == 1:
            assert expert.z_digest == alone.z_digest
    (stats,) = left
    assert (stats.running, stats.waiting, stats.known_z) == (0, 0, 0), "learners left something in the pool"
    assert stats.generated_tokens > 2 * CALLS


def test_a_raising_reward_ends_its_expert_at_once_or_leaves_its_sample_out(
    place: Place, ray_cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two experts, one skips samples without a grade: it is trained although the other fails."""
    rewards = {"raising": python("raising"), "skipping": {**python("skipping"), "on_error": "skip"}}
    with pytest.raises(RewardError, match=r"on sample [0-9a-f]{16} \('.*ValueError: no grade for this"):
        run_train(place.spec(rewards))
    assert len(place.calls("raising")) == 1, "training began again for an error that comes again"
    (trained,) = [version for version in place.registry.list() if version.name in rewards]
    assert trained.name == "skipping"
    assert "skipping: sample left out" in caplog.text
    assert "no grade for this" in caplog.text
    skipped = dict(place.registry.curve(trained.run_id, "skipped"))
    assert skipped == {step: float(step == 5) for step in range(1, STEPS + 1)}


@pytest.mark.drill
def test_a_reward_that_raises_on_one_of_two_workers_ends_both(place: Place, ray_cluster: None) -> None:
    """The other worker waits for it in an all-reduce."""
    with pytest.raises(RewardError, match="ValueError: no grade for this"):
        run_train(place.spec({"once": python("once")}, num_workers=2))
    assert len(place.calls("once")) == 2, "training began again for an error that comes again"


@pytest.mark.drill
def test_workers_killed_at_any_moment_change_nothing(place: Place, trained: list[TrainedExpert]) -> None:
    """Two kills from outside, at moments that have nothing to do with the steps."""
    script = [sys.executable, __file__, str(place.root / "shot.log"), "2"]
    shooter = subprocess.Popen(script)
    try:
        (expert,) = run_train(place.spec({"shot": python("shot")}, max_failures=3))
    finally:
        shooter.kill()
        shooter.wait()
    assert len(place.calls("shot")) == 3
    assert expert.z_digest == trained[0].z_digest


def _shoot(log: Path, times: int) -> None:
    """Kill a worker some time after it first asked its reward, and the next one."""
    shot: set[int] = set()
    while len(shot) < times:
        time.sleep(0.05)
        new = {int(pid) for pid in log.read_text().split()} - shot if log.exists() else set()
        for pid in new:
            time.sleep(0.5)
            os.kill(pid, signal.SIGKILL)
            shot.add(pid)


if __name__ == "__main__":
    _shoot(Path(sys.argv[1]), int(sys.argv[2]))
