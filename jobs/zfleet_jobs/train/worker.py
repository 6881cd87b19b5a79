"""The training loop of one Ray Train worker: a thin shell around ``zfleet.rl.Learner``."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.train
import torch

from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import ExpertSpec, TrainSpec
from zfleet.engine.sync import SyncEngine
from zfleet.engine.torch_engine import TorchEngine
from zfleet.errors import ZfleetError
from zfleet.rl.checkpoint import LearnerState
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.learner import Learner, Measured
from zfleet.rl.member import Member
from zfleet.rl.report import StepReport
from zfleet.rl.weights import SvfWeights
from zfleet.tasks.task import Task
from zfleet_jobs.pool.pool import EnginePool
from zfleet_jobs.shipping import ShippedBase, open_model
from zfleet_jobs.train.board import Row
from zfleet_jobs.train.samples import write_samples

Z_FILE = "z.safetensors"
MEASURED = (
    *("reward_before", "accuracy_before", "n_before"),
    *("reward_after", "accuracy_after", "n_after"),
    "parameters",
)
"""What a finished run reports besides its last step."""


@dataclass(frozen=True)
class WorkerJob:
    """What a worker needs to train one expert; small, the rest lies in the object store.

    Attributes:
        shipped: The base.
        task: Object reference to the task.
        spec: The whole job.
        expert: The expert to train.
        board: Where progress and errors go.
        pool: What generates, where the workers of all experts share it; else each worker has an engine of its own.
        samples: Folder or URI that every sample is written to.
    """

    shipped: ShippedBase
    task: ray.ObjectRef[Task]
    spec: TrainSpec
    expert: ExpertSpec
    board: Any
    pool: EnginePool | None
    samples: str

    @property
    def learner(self) -> LearnerSpec:
        """The learner's settings for this expert."""
        return self.spec.learner_of(self.expert)

    @property
    def skip_failed_rewards(self) -> bool:
        """Whether samples are left out when their reward function fails."""
        return self.expert.task.reward.on_error == "skip"


def train_loop(config: dict[str, Any]) -> None:
    """Run by Ray Train on every worker, again after a worker was lost."""
    job: WorkerJob = config["job"]
    # An error of the job itself comes again however often the workers are restarted.
    if ray.get(job.board.error.remote(job.expert.name)) is not None:
        return
    try:
        _train(job)
    except ZfleetError as error:
        ray.get(job.board.fail.remote(job.expert.name, error))
        # Raised where other workers wait for this one. Alone, Ray Train need not start a worker again to end the run.
        if ray.train.get_context().get_world_size() > 1:
            raise


class _ToBoard(logging.Handler):
    """Sends the first warnings of a worker, a sample left out for example, to the board."""

    LIMIT = 5

    def __init__(self, job: WorkerJob) -> None:
        super().__init__(logging.WARNING)
        self._job = job
        self._left = self.LIMIT

    def emit(self, record: logging.LogRecord) -> None:
        if self._left:
            self._left -= 1
            last = "" if self._left else " (further ones of this worker are counted in the curve `skipped` only)"
            self._job.board.warn.remote(f"{self._job.expert.name}: {record.getMessage()}{last}")


def _train(job: WorkerJob) -> None:
    logging.getLogger("zfleet").addHandler(_ToBoard(job))
    torch.set_num_threads(job.spec.resources.torch_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    context = ray.train.get_context()
    workers = DataParallel(context.get_world_rank(), context.get_world_size())
    task = ray.get(job.task)
    model = open_model(job.shipped)
    with SyncEngine(TorchEngine(model, job.spec.engine) if job.pool is None else job.pool.engine()) as engine:
        weights = SvfWeights(model)
        member = Member(weights, task, job.learner, job.expert.name, job.skip_failed_rewards)
        learner = Learner(
            weights,
            engine,
            [member],
            workers,
            lambda _, step, rollouts, advantages: write_samples(job.samples, step, workers.rank, rollouts, advantages),
        )
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                member.restore(LearnerState.load(Path(folder)))
        samples = member.task.test[: job.spec.eval_samples]
        before = learner.measure(member, samples, None, job.spec.eval_temperature)
        while not member.done:
            (report,) = learner.step()
            if workers.rank == 0:
                job.board.post.remote(Row(job.expert.name, report.step, _curve(report), os.getpid()))
            if report.step % job.spec.checkpoint_every == 0 and not member.done:
                _report(member, weights, workers, {"step": float(report.step)})
        after = learner.measure(member, samples, member.chosen, job.spec.eval_temperature)
        measured = _measured("before", before) | _measured("after", after) | {"parameters": float(member.p.numel())}
        _report(member, weights, workers, {"step": float(member.steps_done), **measured})


def _measured(when: str, found: Measured) -> dict[str, float]:
    return {f"{key}_{when}": float(value) for key, value in asdict(found).items()}


def _report(member: Member, weights: SvfWeights, workers: DataParallel, metrics: dict[str, float]) -> None:
    """Commit a checkpoint: what resumes the run, and the z to keep."""
    if workers.rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="zfleet-checkpoint-") as folder:
        member.state().save(Path(folder))
        weights.z(member.spec, member.chosen).save(Path(folder) / Z_FILE)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _curve(report: StepReport) -> dict[str, float]:
    """What is logged of a step: all that is a number, and rates."""
    known = {key: float(value) for key, value in asdict(report).items() if isinstance(value, int | float)}
    del known["step"]
    parts = {f"reward/{name}": value for name, value in report.parts.items()}
    rates = {
        "tokens_per_second": report.tokens / (report.wait_seconds + report.learn_seconds),
        "rollout_tokens_per_second": report.tokens / report.rollout_seconds,
        "learn_tokens_per_second": report.tokens / report.learn_seconds,
        "memory_mib": psutil.Process().memory_info().rss / 2**20,
    }
    return known | parts | rates
