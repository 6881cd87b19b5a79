"""The training loop of one Ray Train worker: a thin shell around ``zfleet.rl.Learner``."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import asdict, dataclass
from typing import Any

import ray
import ray.train
import torch

from zfleet.config.specs import ExpertSpec, LearnerSpec, TrainSpec
from zfleet.engine.contract import BASE_Z
from zfleet.engine.sync import SyncEngine
from zfleet.engine.torch_engine import TorchEngine
from zfleet.errors import ZfleetError
from zfleet.evaluate import evaluate
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.learner import Learner, StepReport
from zfleet.tasks.task import Task
from zfleet_jobs.pool.pool import EnginePool
from zfleet_jobs.shipping import ShippedBase, open_model
from zfleet_jobs.train.board import Row
from zfleet_jobs.train.kept import KeptRun
from zfleet_jobs.train.samples import write_samples


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
        kept: Where the run keeps its steps, samples and result.
    """

    shipped: ShippedBase
    task: ray.ObjectRef[Task]
    spec: TrainSpec
    expert: ExpertSpec
    board: Any
    pool: EnginePool | None
    kept: KeptRun

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
    where = f"pid {os.getpid()} on {socket.gethostname()}"
    ray.get(job.board.join.remote(job.expert.name, workers.rank, where))
    task = ray.get(job.task)
    model = open_model(job.shipped)
    with SyncEngine(TorchEngine(model, job.spec.engine) if job.pool is None else job.pool.engine()) as engine:
        learner = Learner(
            model,
            engine,
            task,
            job.learner,
            workers,
            job.skip_failed_rewards,
            lambda step, rollouts: write_samples(job.kept.samples, step, workers.rank, rollouts),
        )
        state = job.kept.state()
        if state is not None:
            learner.restore(state)
        before = _measure(learner, job, BASE_Z)
        while learner.steps_done < job.learner.steps:
            report = learner.step()
            if workers.rank == 0:
                row = Row(job.expert.name, report.step, _curve(report), os.getpid())
                job.kept.keep_row(row)
                if report.step % job.spec.checkpoint_every == 0 or report.step == job.learner.steps:
                    job.kept.keep_state(learner.state())
                job.board.post.remote(row)
        digest = engine.put_z(learner.z())
        after = _measure(learner, job, digest)
        if workers.rank == 0:
            measured = {f"{key}_before": value for key, value in before.items()}
            measured |= {f"{key}_after": value for key, value in after.items()}
            job.kept.finish(learner.z(), measured | {"parameters": float(learner.p.numel())})


def _measure(learner: Learner, job: WorkerJob, z: str) -> dict[str, float]:
    """Mean reward, accuracy and number of held-out prompts; each worker grades its share."""
    samples = learner.task.test[: job.spec.eval_samples]
    _, share = learner.workers.share(samples)
    sums = torch.zeros(3, dtype=torch.float64, device=learner.model.device)
    if share:
        result = evaluate(
            learner.engine,
            learner.model.base.tokenizer,
            learner.task,
            share,
            z,
            job.spec.eval_temperature,
            job.skip_failed_rewards,
        )
        sums += sums.new_tensor([result.mean_reward * result.n, result.accuracy * result.n, result.n])
    learner.workers.sum(sums)
    return {"reward": float(sums[0] / sums[2]), "accuracy": float(sums[1] / sums[2]), "n": float(sums[2])}


def _curve(report: StepReport) -> dict[str, float]:
    seconds = report.rollout_seconds + report.learn_seconds
    values = {key: float(value) for key, value in asdict(report).items() if key not in ("step", "parts")}
    parts = {f"reward/{name}": value for name, value in report.parts.items()}
    return values | parts | {"tokens_per_second": report.tokens / seconds}
