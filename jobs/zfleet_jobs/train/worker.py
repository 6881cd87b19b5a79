"""The training loop of one Ray Train worker: a thin shell around ``zfleet.rl.learner.Learner``."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import ray
import ray.train
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from zfleet.config.specs import ExpertSpec, TrainSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import ZfleetError
from zfleet.memory.exhausted import enough_memory
from zfleet.models.recompute import checkpoint_layers
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import HeldOutScore, Learner
from zfleet.rl.report import StepReport
from zfleet.rl.weights import SvfWeights
from zfleet.svf.directions import truncation_metrics
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Task
from zfleet_cluster.fleet.actors import Fleet
from zfleet_cluster.fleet.base import ShippedBase, open_model
from zfleet_jobs.run_folder.checkpoints import CurvePoint, ExpertFolder, cohort_checkpoints
from zfleet_jobs.run_folder.lock import WriteLease
from zfleet_jobs.run_folder.samples import step_with_samples


@dataclass(frozen=True)
class ExpertJob:
    """One expert of a cohort.

    Attributes:
        expert: Its part of the spec.
        task: Object reference to its task.
        folder: Where its run writes its curve, checkpoints, samples and result.
        start: Object reference to the z that it begins at; None: it begins at the base.
    """

    expert: ExpertSpec
    task: ray.ObjectRef[Task]
    folder: ExpertFolder
    start: ray.ObjectRef[ZVector] | None


@dataclass(frozen=True)
class CohortJob:
    """What a worker needs to train a cohort; small, the rest lies in the object store.

    Attributes:
        name: What messages call the cohort: its experts' names.
        shipped: The base.
        spec: The whole job.
        experts: The experts to train, side by side.
        board: Where progress and errors are reported.
        fleet: Engines that the workers of all cohorts share; None if each worker has an engine of its own.
        lease: The right to write to the run.
    """

    name: str
    shipped: ShippedBase
    spec: TrainSpec
    experts: tuple[ExpertJob, ...]
    board: Any
    fleet: Fleet | None
    lease: WriteLease


def train_loop(job: CohortJob) -> None:
    """Train a cohort. Ray Train runs this on every worker, and again after a worker was lost."""
    # An error of the job itself comes again however often the workers are restarted.
    if ray.get(job.board.error.remote(job.name)) is not None:
        return
    try:
        with job.lease.working(), enough_memory():
            _train(job)
    except ZfleetError as error:
        ray.get(job.board.fail.remote(job.name, error))
        # Re-raise only if other workers would block on this one; a lone worker just returns.
        if ray.train.get_context().get_world_size() > 1:
            raise


class _BoardHandler(logging.Handler):
    """Sends the first warnings of a worker to the board: that a sample was left out, for example."""

    LIMIT = 5

    def __init__(self, job: CohortJob) -> None:
        super().__init__(logging.WARNING)
        self._job = job
        self._remaining = self.LIMIT

    def emit(self, record: logging.LogRecord) -> None:
        if not self._remaining:
            return
        self._remaining -= 1
        last = "" if self._remaining else " (further ones of this worker are counted in the curve `skipped` only)"
        try:
            self._job.board.warn.remote(f"{self._job.name}: {record.getMessage()}{last}")
        except Exception:
            # A warning that cannot be sent must not end the training that it is about.
            self.handleError(record)


def _train(job: CohortJob) -> None:
    board = _BoardHandler(job)
    # The second one says what the base's files do on their way to this node.
    for package in ("zfleet", "zfleet_cluster"):
        logging.getLogger(package).addHandler(board)
    torch.set_num_threads(job.spec.resources.torch_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    context = ray.train.get_context()
    workers = DataParallel(context.get_world_rank(), context.get_world_size())
    where = f"pid {os.getpid()} on {socket.gethostname()}"
    ray.get(job.board.join.remote(job.name, workers.rank, where))
    mesh = init_device_mesh(job.spec.base.device, (workers.size,)) if job.spec.split else None
    weights = SvfWeights(open_model(job.shipped, mesh))
    assert job.spec.recompute != "auto"  # it was chosen before anything started
    if job.spec.recompute:
        checkpoint_layers(weights.model)
    engine = TorchEngine(weights.model, job.spec.engine) if job.fleet is None else job.fleet.engine()
    with SyncEngine(engine) as sync:
        _Cohort(job, weights, sync, workers).train()


class _Cohort:
    """The experts of a job on this worker, without those that have a result already."""

    def __init__(self, job: CohortJob, weights: SvfWeights, engine: SyncEngine, workers: DataParallel) -> None:
        self._job = job
        self._weights = weights
        # The first worker writes for all: they hold the same z.
        self._writes = workers.rank == 0
        jobs = [one for one in job.experts if one.folder.result() is None]
        self._folders = {one.expert.name: one.folder for one in jobs}
        experts = [_expert(job.spec, weights, one) for one in jobs]
        for expert, checkpoint in zip(experts, cohort_checkpoints([one.folder for one in jobs]), strict=True):
            if checkpoint is not None:
                expert.restore(checkpoint)
        self._learner = Learner(weights, engine, experts, workers)

    def train(self) -> None:
        """Train every expert to its end; each result is written as soon as the expert is done."""
        experts = list(self._learner.experts)
        before = {expert.name: self._score_before(expert) for expert in experts}
        while experts:
            for expert in [expert for expert in experts if expert.done]:
                self._finish(expert, before[expert.name])
                experts.remove(expert)
            if experts:
                self._step()
        self._learner.close()

    def _step(self) -> None:
        reports = step_with_samples(self._learner, {name: folder.samples for name, folder in self._folders.items()})
        if not self._writes:
            return
        experts = {expert.name: expert for expert in self._learner.experts}
        points = [
            CurvePoint(report.expert, report.step, _metrics(report, self._weights.model.device)) for report in reports
        ]
        # The curve first, so that no checkpoint is ahead of it; a step that runs again overwrites its point.
        for point in points:
            self._folders[point.expert].write_point(point)
        every = self._job.spec.checkpoint_every
        # A checkpoint of all or of none: they go on from one step.
        if any(point.step % every == 0 or experts[point.expert].done for point in points):
            for point in points:
                self._folders[point.expert].write_checkpoint(experts[point.expert].checkpoint())
        for point in points:
            self._job.board.post.remote(point)

    def _score_before(self, expert: ExpertInTraining) -> dict[str, float]:
        """Grade the held-out prompts at the expert's start, or read what an earlier attempt measured."""
        folder = self._folders[expert.name]
        score = folder.score_before()
        if score is None:
            score = _named("before", self._measure(expert, expert.start))
            if self._writes:
                folder.write_score_before(score)
        return score

    def _finish(self, expert: ExpertInTraining, before: dict[str, float]) -> None:
        score = _named("after", self._measure(expert, expert.selected_p))
        if self._writes:
            training = {
                "parameters": float(expert.p.numel()),
                "steps": float(expert.steps_done),
                "chosen_step": float(expert.selected_step),
            }
            z = self._weights.z(expert.spec, expert.selected_p)
            truncation = truncation_metrics(z.values, self._weights.model.factors.matrices)
            self._folders[expert.name].write_result(z, before | score | training | truncation)

    def _measure(self, expert: ExpertInTraining, p: Tensor | None) -> HeldOutScore:
        spec = self._job.spec
        return self._learner.measure(expert, expert.task.test[: spec.eval_samples], p, spec.eval_temperature)


def _expert(spec: TrainSpec, weights: SvfWeights, job: ExpertJob) -> ExpertInTraining:
    skip, learner = job.expert.task.reward.on_error == "skip", spec.learner_of(job.expert)
    start = None if job.start is None else weights.p(learner, ray.get(job.start))
    return ExpertInTraining(weights, ray.get(job.task), learner, job.expert.name, skip, start)


def _named(when: str, score: HeldOutScore) -> dict[str, float]:
    """Name a score for the registry: ``when`` is ``before`` or ``after``."""
    return {f"reward_{when}": score.reward, f"accuracy_{when}": score.accuracy, f"n_{when}": float(score.n)}


def _metrics(report: StepReport, device: torch.device) -> dict[str, float]:
    """Collect what is logged of a step: every number of its report, and rates."""
    known = {key: float(value) for key, value in asdict(report).items() if isinstance(value, int | float)}
    del known["step"]
    parts = {f"reward/{name}": value for name, value in report.parts.items()}
    rates = {
        "tokens_per_second": report.tokens / (report.wait_seconds + report.learn_seconds),
        "rollout_tokens_per_second": report.tokens / report.rollout_seconds,
        "learn_tokens_per_second": report.tokens / report.learn_seconds,
        "memory_mib": psutil.Process().memory_info().rss / 2**20,
    }
    if device.type == "cuda":
        rates["gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return known | parts | rates
