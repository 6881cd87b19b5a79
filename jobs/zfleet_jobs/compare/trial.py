"""One training of an experiment: a method, a task and a seed, in a process of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass

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
from zfleet.tasks.task import Task
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_jobs.compare.memory import Memory
from zfleet_jobs.compare.outcome import Outcome
from zfleet_jobs.run_folder.samples import step_with_samples


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
    trial: Trial, shipped: ShippedBase, task: Task, spec: CompareSpec | AblateSpec, samples: str, code: str
) -> Outcome:
    """Train and grade.

    Args:
        trial: Which.
        shipped: The base, with factors of the method's targets.
        task: Its prompts all fit.
        spec: The experiment.
        samples: The folder of this training's samples, a path or a URI.
        code: The version of zfleet that this is.

    Raises:
        ZfleetError: The task, its reward or the learner failed, or there is not enough memory.
    """
    torch.set_num_threads(spec.resources.torch_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with enough_memory():
        return _train(trial, shipped.find(), task, spec, samples, code)


def _train(
    trial: Trial, bundle: BaseBundle, task: Task, spec: CompareSpec | AblateSpec, samples: str, code: str
) -> Outcome:
    memory = Memory(bundle.spec.device)
    weights = _weights(trial.settings, bundle)
    skip = spec.tasks[trial.task].reward.on_error == "skip"
    expert = ExpertInTraining(weights, task, trial.learner, str(trial), skip)
    with SyncEngine(TorchEngine(weights.model, spec.engine)) as engine:
        learner = Learner(weights, engine, [expert])
        held_out = task.test[: spec.eval_samples]
        held = memory.held()
        # Both kinds of weights begin at the base.
        before = learner.measure(expert, held_out, expert.p.detach())
        used, began = 0, time.perf_counter()
        while not expert.done:
            (report,) = step_with_samples(learner, {expert.name: samples})
            used += report.used
        seconds, peak = time.perf_counter() - began, memory.peak()
        with torch.no_grad():
            expert.p.copy_(expert.selected_p)
        after = learner.measure(expert, held_out, expert.p.detach())
        learner.close()
    return Outcome(
        method=trial.method,
        task=trial.task,
        seed=trial.seed,
        before=before.accuracy,
        accuracy=after.accuracy,
        reward_before=before.reward,
        reward=after.reward,
        rewards=after.rewards,
        validation=expert.selection.score,
        n=after.n,
        parameters=expert.p.numel(),
        samples=used,
        seconds=seconds,
        held_mib=held,
        peak_mib=peak,
        code=code,
    )


def _weights(method: MethodSpec, bundle: BaseBundle) -> Weights:
    if method.adapter == "svf":
        return SvfWeights(bundle.open())
    return LoraWeights(bundle.open_base(), bundle.spec.targets, method.lora_rank, method.lora_alpha)
