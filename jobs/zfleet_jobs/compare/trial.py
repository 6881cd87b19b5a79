"""One training of an experiment: a method, a task and a seed, in a process of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from zfleet.config.compare import MethodSpec
from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import EngineSpec
from zfleet.engine.sync import SyncEngine
from zfleet.engine.torch_engine import TorchEngine
from zfleet.models.bundle import BaseBundle
from zfleet.rl.learner import Learner
from zfleet.rl.lora import LoraWeights
from zfleet.rl.member import Member
from zfleet.rl.weights import SvfWeights, Weights
from zfleet.tasks.task import Task


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


@dataclass(frozen=True)
class Outcome:
    """What one training gave.

    Attributes:
        method, task, seed: Which.
        before: Accuracy of the base on held-out prompts.
        accuracy: Afterwards.
        validation: Mean reward of the best validation, where the learner has any: what settings may be chosen by.
        n: Held-out prompts.
        parameters: Numbers trained.
        samples: Learned from.
        seconds: Of all steps, opening the base and grading held-out prompts not counted.
        peak_mib: The most memory at once during the steps, above what the opened base and engine held before.
    """

    method: str
    task: str
    seed: int
    before: float
    accuracy: float
    validation: float | None
    n: int
    parameters: int
    samples: int
    seconds: float
    peak_mib: float


def run_trial(
    trial: Trial, bundle: BaseBundle, task: Task, engine: EngineSpec, eval_samples: int, threads: int
) -> Outcome:
    """Train and grade.

    Raises:
        ZfleetError: The task, its reward or the learner failed.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    weights = _weights(trial.settings, bundle)
    member = Member(weights, task, trial.learner, f"{trial.task} by {trial.method}")
    with SyncEngine(TorchEngine(weights.model, engine)) as sync:
        learner = Learner(weights, sync, [member])
        held_out = task.test[:eval_samples]
        # Both kinds of weights begin at the base.
        before = learner.measure(member, held_out, member.p.detach())
        samples, memory, began = 0, _Peak(weights.model.device), time.perf_counter()
        while not member.done:
            (report,) = learner.step()
            samples += report.used
        seconds, peak = time.perf_counter() - began, memory.mib()
        with torch.no_grad():
            member.p.copy_(member.chosen)
        after = learner.measure(member, held_out, member.p.detach())
        learner.close()
    return Outcome(
        trial.method,
        trial.task,
        trial.seed,
        before.accuracy,
        after.accuracy,
        member.selection.score,
        after.n,
        member.p.numel(),
        samples,
        seconds,
        peak,
    )


def _weights(method: MethodSpec, bundle: BaseBundle) -> Weights:
    if method.adapter == "svf":
        return SvfWeights(bundle.open())
    return LoraWeights(bundle.open_base(), bundle.spec.targets, method.rank, method.alpha)


class _Peak:
    """The most memory at once since it was made, above what was there then."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = float(torch.cuda.memory_allocated())
        else:
            # Forgets the highest resident memory so far (proc(5), since Linux 4.0).
            Path("/proc/self/clear_refs").write_text("5")
            self._before = float(psutil.Process().memory_info().rss)

    def mib(self) -> float:
        """In MiB."""
        if self._gpu:
            return (torch.cuda.max_memory_allocated() - self._before) / 2**20
        status = Path("/proc/self/status").read_text()
        (highest,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        return max(0.0, highest * 1024 - self._before) / 2**20
