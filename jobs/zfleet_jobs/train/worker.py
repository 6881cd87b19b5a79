"""The training loop of one Ray Train worker: a thin shell around ``zfleet.rl.Learner``."""

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
from zfleet.models.recompute import checkpoint_layers
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import HeldOutScore, Learner
from zfleet.rl.report import StepReport
from zfleet.rl.weights import SvfWeights
from zfleet.tasks.task import Task
from zfleet_cluster.fleet.actors import EnginePool
from zfleet_cluster.fleet.base import ShippedBase, open_model
from zfleet_jobs.run_folder.checkpoints import KeptRun, kept_states
from zfleet_jobs.run_folder.lock import Turn
from zfleet_jobs.run_folder.samples import step_with_samples
from zfleet_jobs.train.progress.board import Row


@dataclass(frozen=True)
class MemberJob:
    """One expert of a cohort.

    Attributes:
        expert: Its part of the spec.
        task: Object reference to its task.
        kept: Where its run keeps its steps, samples and result.
    """

    expert: ExpertSpec
    task: ray.ObjectRef[Task]
    kept: KeptRun


@dataclass(frozen=True)
class WorkerJob:
    """What a worker needs to train a cohort; small, the rest lies in the object store.

    Attributes:
        name: What messages call the cohort: its experts' names.
        shipped: The base.
        spec: The whole job.
        members: The experts to train, side by side.
        board: Where progress and errors go.
        pool: What generates, where the workers of all experts share it; else each worker has an engine of its own.
        turn: The right to write to the run.
    """

    name: str
    shipped: ShippedBase
    spec: TrainSpec
    members: tuple[MemberJob, ...]
    board: Any
    pool: EnginePool | None
    turn: Turn


def train_loop(job: WorkerJob) -> None:
    """Run by Ray Train on every worker, again after a worker was lost."""
    # An error of the job itself comes again however often the workers are restarted.
    if ray.get(job.board.error.remote(job.name)) is not None:
        return
    try:
        with job.turn.working():
            _train(job)
    except ZfleetError as error:
        ray.get(job.board.fail.remote(job.name, error))
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
            self._job.board.warn.remote(f"{self._job.name}: {record.getMessage()}{last}")


def _train(job: WorkerJob) -> None:
    logging.getLogger("zfleet").addHandler(_ToBoard(job))
    torch.set_num_threads(job.spec.resources.torch_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    context = ray.train.get_context()
    workers = DataParallel(context.get_world_rank(), context.get_world_size())
    where = f"pid {os.getpid()} on {socket.gethostname()}"
    ray.get(job.board.join.remote(job.name, workers.rank, where))
    mesh = init_device_mesh(job.spec.base.device, (workers.size,)) if job.spec.split else None
    weights = SvfWeights(open_model(job.shipped, mesh))
    if job.spec.recompute:
        checkpoint_layers(weights.model)
    engine = TorchEngine(weights.model, job.spec.engine) if job.pool is None else job.pool.engine()
    with SyncEngine(engine) as sync:
        _Cohort(job, weights, sync, workers).train()


class _Cohort:
    """The members of a job on this worker, but for those that came to their end before."""

    def __init__(self, job: WorkerJob, weights: SvfWeights, engine: SyncEngine, workers: DataParallel) -> None:
        self._job = job
        self._weights = weights
        self._first = workers.rank == 0
        jobs = [one for one in job.members if one.kept.finished() is None]
        self._jobs: dict[str, MemberJob] = {one.expert.name: one for one in jobs}
        members = [_member(job.spec, weights, one) for one in jobs]
        for member, state in zip(members, kept_states([one.kept for one in jobs]), strict=True):
            if state is not None:
                member.restore(state)
        self._learner = Learner(weights, engine, members, workers)

    def train(self) -> None:
        """To the end of every member; each is kept as soon as it is done."""
        members = list(self._learner.experts)
        before = {member.name: self._before(member) for member in members}
        while members:
            for member in [member for member in members if member.done]:
                self._finish(member, before[member.name])
                members.remove(member)
            if members:
                self._step()
        self._learner.close()

    def _step(self) -> None:
        reports = step_with_samples(self._learner, {name: one.kept.samples for name, one in self._jobs.items()})
        if not self._first:
            return
        members = {member.name: member for member in self._learner.experts}
        rows = [
            Row(report.expert, report.step, _curve(report, self._weights.model.device), os.getpid())
            for report in reports
        ]
        for row in rows:
            self._jobs[row.expert].kept.keep_row(row)
        every = self._job.spec.checkpoint_every
        # All or none: they go on from one step.
        if any(row.step % every == 0 or members[row.expert].done for row in rows):
            for row in rows:
                self._jobs[row.expert].kept.keep_state(members[row.expert].checkpoint())
        for row in rows:
            self._job.board.post.remote(row)

    def _before(self, member: ExpertInTraining) -> dict[str, float]:
        """What the base answers; asked once, however often the run is begun again."""
        kept = self._jobs[member.name].kept
        known = kept.before()
        if known is None:
            known = _measured("before", self._measure(member, None))
            if self._first:
                kept.keep_before(known)
        return known

    def _finish(self, member: ExpertInTraining, before: dict[str, float]) -> None:
        after = _measured("after", self._measure(member, member.selected_p))
        if self._first:
            learned = {
                "parameters": float(member.p.numel()),
                "steps": float(member.steps_done),
                "chosen_step": float(member.selected_step),
            }
            self._jobs[member.name].kept.finish(self._weights.z(member.spec, member.selected_p), before | after | learned)

    def _measure(self, member: ExpertInTraining, p: Tensor | None) -> HeldOutScore:
        spec = self._job.spec
        return self._learner.measure(member, member.task.test[: spec.eval_samples], p, spec.eval_temperature)


def _member(spec: TrainSpec, weights: SvfWeights, job: MemberJob) -> ExpertInTraining:
    skip = job.expert.task.reward.on_error == "skip"
    return ExpertInTraining(weights, ray.get(job.task), spec.learner_of(job.expert), job.expert.name, skip)


def _measured(when: str, found: HeldOutScore) -> dict[str, float]:
    return {f"reward_{when}": found.reward, f"accuracy_{when}": found.accuracy, f"n_{when}": float(found.n)}


def _curve(report: StepReport, device: torch.device) -> dict[str, float]:
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
    if device.type == "cuda":
        rates["gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return known | parts | rates
