"""One training of an experiment: a method, a task and a seed, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from zfleet.config.compare import AblateSpec, CompareSpec, MethodSpec
from zfleet.config.learner import LearnerSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.memory.exhausted import enough_memory
from zfleet.models.bundle import BaseBundle
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.lora import LoraWeights
from zfleet.rl.weights import SvfWeights, Weights
from zfleet.tasks.task import Sample, Task
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_jobs.compare.memory import Memory
from zfleet_jobs.compare.outcome import Outcome
from zfleet_jobs.compare.training_folder import TrainingFolder
from zfleet_jobs.run_folder.samples import step_with_samples

_CHECKPOINT_SECONDS = 15.0
"""A kill loses about this much work. Checkpoints after every step would take longer than the steps of small bases."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What to train.

    Attributes:
        method, task, seed: Which of the experiment's.
        settings: The method's.
        learner: How it learns, the seed included.
    """

    method: str
    task: str
    seed: int
    settings: MethodSpec
    learner: LearnerSpec

    def __str__(self) -> str:
        return f"{self.method} on {self.task} (seed {self.seed})"


def run_trial(
    trial: Trial, shipped: ShippedBase, task: Task, spec: CompareSpec | AblateSpec, folder: TrainingFolder, code: str
) -> Outcome:
    """Train and grade. A training that was cut short goes on from its newest checkpoint.

    Args:
        trial: Which.
        shipped: The base, with factors of the method's targets.
        task: Its prompts all fit.
        spec: The experiment.
        folder: Where to write samples, checkpoints and z.
        code: The version of zfleet that this is.

    Raises:
        ZfleetError: The task, its reward or the learner failed, or there is not enough memory.
    """
    torch.set_num_threads(spec.resources.torch_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with enough_memory():
        return _train(trial, shipped.find(), task, spec, folder, code)


def _train(
    trial: Trial, bundle: BaseBundle, task: Task, spec: CompareSpec | AblateSpec, folder: TrainingFolder, code: str
) -> Outcome:
    memory = Memory(bundle.spec.device)
    weights = _weights(trial.settings, bundle)
    skip = spec.tasks[trial.task].reward.on_error == "skip"
    expert = ExpertInTraining(weights, task, trial.learner, str(trial), skip)
    with SyncEngine(TorchEngine(weights.model, spec.engine)) as engine:
        learner = Learner(weights, engine, [expert])
        held_out = task.test[: spec.eval_samples]
        held = memory.held()
        before = _base_rewards(learner, expert, held_out, folder)
        state = folder.resume(expert)
        checkpoint_at = time.monotonic() + _CHECKPOINT_SECONDS
        while not expert.done:
            began = time.perf_counter()
            (report,) = step_with_samples(learner, {expert.name: folder.samples})
            seconds, peak = time.perf_counter() - began, memory.peak()
            folder.write_step(expert, report, seconds, peak)
            state = state.after(report.used, seconds, peak)
            if time.monotonic() >= checkpoint_at:
                folder.write_checkpoint(expert)
                checkpoint_at = time.monotonic() + _CHECKPOINT_SECONDS
        with torch.no_grad():
            expert.p.copy_(expert.selected_p)
        after = learner.measure(expert, held_out, expert.p.detach())
        learner.close()
    z = weights.z(expert.spec, expert.p.detach())
    graded = [reward for reward in before if reward is not None]
    return Outcome(
        method=trial.method,
        task=trial.task,
        seed=trial.seed,
        before=mean(reward > 0 for reward in graded),
        accuracy=after.accuracy,
        reward_before=mean(graded),
        reward=after.reward,
        rewards_before=before,
        rewards=after.rewards,
        validation=expert.selection.score,
        n=after.n,
        parameters=expert.p.numel(),
        samples=state.samples,
        seconds=state.seconds,
        held_mib=held,
        peak_mib=state.peak_mib,
        curve=folder.curve(),
        z=None if z is None else folder.write_z(z),
        code=code,
    )


def _base_rewards(
    learner: Learner, expert: ExpertInTraining, held_out: Sequence[Sample], folder: TrainingFolder
) -> tuple[float | None, ...]:
    """Grade the base on the held-out prompts, or read what an earlier process measured: both weights begin at the base.

    Call it before the expert goes on from a checkpoint.
    """
    stored = folder.before()
    if stored is not None:
        return stored
    rewards = learner.measure(expert, held_out, expert.p.detach()).rewards
    folder.write_before(rewards)
    return rewards


def _weights(method: MethodSpec, bundle: BaseBundle) -> Weights:
    if method.adapter == "svf":
        return SvfWeights(bundle.open())
    return LoraWeights(bundle.open_base(), bundle.spec.targets, method.lora_rank, method.lora_alpha)
