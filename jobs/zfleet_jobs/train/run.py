"""``zfleet train``: ship the base, run one TorchTrainer per expert, register what came out."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from zfleet.config.specs import ExpertSpec, ResourceSpec, TrainSpec
from zfleet.engine.open import check_engine
from zfleet.errors import JobError, RegistryError, ZfleetError
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.rewards.identity import reward_identity
from zfleet.rewards.needs import check_reward
from zfleet.svf.zvector import ZVector
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import FitReport, data_digest, fit_prompts
from zfleet_cluster import cluster
from zfleet_jobs.capacity import actors_that_fit
from zfleet_jobs.code_version import code_version
from zfleet_jobs.pool.pool import EnginePool, shared_pool
from zfleet_jobs.samples.layout import Training
from zfleet_jobs.shipping import ShippedBase, by_value, ship
from zfleet_jobs.train.board import Board, Row
from zfleet_jobs.train.display import TrainDisplay, train_display
from zfleet_jobs.train.result import TrainedExpert
from zfleet_jobs.train.worker import MEASURED, Z_FILE, WorkerJob, train_loop
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance
from zfleet_registry.registry import CHAMPION
from zfleet_registry.runs import RunStatus

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class _Plan:
    """One expert to train.

    Attributes:
        expert: Its part of the spec.
        fit: Its task, without prompts that do not fit.
        data: Digest of that task's samples and images.
        digest: Identity of everything its z depends on; the same digest resumes the same run.
        spec: What the digest is of, as JSON.
    """

    expert: ExpertSpec
    fit: FitReport
    data: str
    digest: str
    spec: str


def run_train(spec: TrainSpec, address: str | None = None) -> list[TrainedExpert]:
    """Train every expert of a spec and register each as a version.

    An expert that the registry holds already, trained from exactly the same spec, data and factors, is not
    trained again; one whose run was interrupted goes on from its last checkpoint. Every new version of a name
    becomes its champion, which a bare name means.

    Args:
        spec: The job.
        address: A running cluster; None starts one on this machine for as long as the job runs.

    Raises:
        ClusterError: No cluster answers.
        JobError: A run failed for a reason outside the job (its log says which), or the cluster is too small.
        EngineError: The spec's engine is not installed, or does not run this base.
        ZfleetError: The job's own fault: a task, a reward, a base or the registry.
    """
    # All that can be the user's mistake comes before a cluster is started.
    if address is None:
        check_engine(spec.engine)
    registry = ExpertRegistry(spec.registry)
    bundle = pack_base(spec.base)
    plans = _plans(spec, bundle, here=address is None)
    done = {plan.expert.name: _registered(registry, plan, bundle.slug) for plan in plans}
    trained = {name: result for name, result in done.items() if result is not None}
    todo = [plan for plan in plans if plan.expert.name not in trained]
    if todo:
        with cluster(address):
            shipped = ship(bundle)
            with shared_pool(shipped, spec.engine, spec.resources) as pool:
                trained |= _Trainer(spec, shipped, pool, registry).train(todo)
    return [trained[expert.name] for expert in spec.experts]


class _Trainer:
    """Runs plans side by side: a thread holds each Ray Train run, this one shows and registers."""

    def __init__(
        self, spec: TrainSpec, shipped: ShippedBase, pool: EnginePool | None, registry: ExpertRegistry
    ) -> None:
        self._spec = spec
        self._shipped = shipped
        self._pool = pool
        self._registry = registry
        self._board: Any = ray.remote(num_cpus=0)(Board).remote()
        self._runs: dict[str, str] = {}
        self._started: dict[str, float] = {}

    def train(self, plans: list[_Plan]) -> dict[str, TrainedExpert]:
        """Train all, a few at once. One that fails does not stop the others; its error is raised at the end."""
        resources = self._spec.resources
        each = ResourceSpec(cpus=resources.cpus * self._spec.num_workers, gpus=resources.gpus * self._spec.num_workers)
        at_once = actors_that_fit(each, min(self._spec.concurrent_experts, len(plans)))
        results: dict[str, TrainedExpert] = {}
        failures: dict[str, ZfleetError] = {}
        pool = ThreadPoolExecutor(at_once, "zfleet-train")
        steps = {plan.expert.name: self._spec.learner_of(plan.expert).steps for plan in plans}
        try:
            with train_display(steps) as display:
                running = {pool.submit(self._fit, plan): plan for plan in plans}
                while running:
                    finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                    self._follow(display)
                    for future in finished:
                        plan = running.pop(future)
                        name = plan.expert.name
                        try:
                            results[name] = self._finish(plan, future)
                        except ZfleetError as error:
                            failures[name] = error
                            self._end_run(name, "FAILED")
                        display.done(name, results[name].reference if name in results else "failed")
        except BaseException as error:
            for name in self._runs.keys() - results.keys() - failures.keys():
                self._end_run(name, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        finally:
            # Runs still under way end with the Ray connection, whose actors they are.
            pool.shutdown(wait=False, cancel_futures=True)
        if failures:
            raise _combined(failures, results)
        return results

    def _end_run(self, name: str, status: RunStatus) -> None:
        """Close a run that gave no expert; a registry that is gone must not hide why."""
        if name in self._runs:
            with suppress(RegistryError):
                self._registry.end_run(self._runs[name], status)

    def _fit(self, plan: _Plan) -> ray.train.Result:
        name = plan.expert.name
        self._started[name] = time.perf_counter()
        self._runs[name] = self._registry.start_run(
            name,
            experiment=f"zfleet/{self._shipped.slug}",
            params={f"learner.{k}": str(v) for k, v in self._spec.learner_of(plan.expert).model_dump().items()},
            tags={"zfleet.spec_digest": plan.digest, "zfleet.task": plan.fit.task.name},
        )
        task = ray.put(by_value(plan.fit.task))
        run, storage = f"{self._spec.run}-{name}-{plan.digest[:12]}", _storage(self._spec.storage)
        samples = Training(self._spec.run, name, plan.digest[:12]).folder_in(storage)
        job = WorkerJob(self._shipped, task, self._spec, plan.expert, self._board, self._pool, samples)
        resources = self._spec.resources
        on_gpu = resources.gpus > 0
        trainer = TorchTrainer(
            train_loop,
            train_loop_config={"job": job},
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=self._spec.num_workers,
                use_gpu=on_gpu,
                resources_per_worker={"CPU": resources.cpus} | ({"GPU": resources.gpus} if on_gpu else {}),
            ),
            run_config=RunConfig(
                name=run,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=self._spec.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        return trainer.fit()

    def _follow(self, display: TrainDisplay) -> None:
        rows: list[Row] = ray.get(self._board.take.remote())
        display.update(rows)
        for warning in ray.get(self._board.take_warnings.remote()):
            log.warning("%s", warning)
        for name in {row.expert for row in rows}:
            curve = [(row.step, row.metrics) for row in rows if row.expert == name]
            self._registry.log_curve(self._runs[name], curve)

    def _finish(self, plan: _Plan, future: Future[ray.train.Result]) -> TrainedExpert:
        name = plan.expert.name
        try:
            result = future.result()
        except ray.train.TrainingFailedError as failure:
            raise self._explain(name, failure) from failure
        if result.checkpoint is None or result.metrics is None or "reward_after" not in result.metrics:
            raise self._explain(name, None)
        with result.checkpoint.as_directory() as folder:
            z = ZVector.load(Path(folder) / Z_FILE)
        metrics = {key: float(result.metrics[key]) for key in ("step", *MEASURED)}
        kept = {key: value for key, value in metrics.items() if key != "step"}
        run_id = self._runs[name]
        self._registry.log_metrics(run_id, kept, step=int(metrics["step"]))
        provenance = Provenance.of(
            z,
            task=plan.fit.task.name,
            data_digest=plan.data,
            spec=plan.spec,
            code_version=code_version(),
            metrics=kept,
        )
        version = self._registry.register(
            name, z, provenance, base_name=self._shipped.name, run_id=run_id, alias=CHAMPION
        )
        self._registry.end_run(run_id)
        return _result(plan, version, time.perf_counter() - self._started[name])

    def _explain(self, name: str, failure: Exception | None) -> ZfleetError:
        cause: ZfleetError | None = ray.get(self._board.error.remote(name))
        if cause is not None:
            return cause
        reason = str(failure).strip().splitlines()[-1] if failure else "it ended without a result"
        return JobError(
            f"expert {name!r} failed: {reason}",
            f"run it again to resume from the last checkpoint under {self._spec.storage}",
        )


def _plans(spec: TrainSpec, bundle: BaseBundle, here: bool) -> list[_Plan]:
    """Every expert's plan; ``here``: this machine also grades."""
    tokenizer, reader = bundle.tokenizer(), bundle.image_reader()
    longest = min(spec.engine.max_length or bundle.context, bundle.context)
    plans = []
    for expert in spec.experts:
        task = build_task(expert.task)
        if here:
            check_reward(task.reward)
        fit = fit_prompts(task, tokenizer, longest, reader)
        if fit.left_out:
            log.warning("%s", fit)
        plans.append(_plan(spec, expert, fit, bundle.factors_digest))
    return plans


def _plan(spec: TrainSpec, expert: ExpertSpec, fit: FitReport, factors: str) -> _Plan:
    data = data_digest(fit.task)
    depends: dict[str, Any] = {
        "device": spec.base.device,
        "dtype": spec.base.dtype,
        "factors": factors,
        "task": expert.task.model_dump(),
        "reward": reward_identity(fit.task.reward),
        "data": data,
        "learner": spec.learner_of(expert).model_dump(),
        "num_workers": spec.num_workers,
        "engine": spec.engine.model_dump(),
        "eval": [spec.eval_samples, spec.eval_temperature],
    }
    text = json.dumps(depends, sort_keys=True)
    return _Plan(expert, fit, data, hashlib.sha256(text.encode()).hexdigest(), text)


def _combined(failures: dict[str, ZfleetError], results: dict[str, TrainedExpert]) -> ZfleetError:
    """One error as it is; several as one that names them all, and who was registered nevertheless."""
    if len(failures) == 1:
        return next(iter(failures.values()))
    done = ", ".join(result.reference for result in results.values()) or "none"
    return JobError(
        f"{len(failures)} experts failed (registered: {done}): "
        + "; ".join(f"{name}: {error.message}" for name, error in failures.items()),
        "; ".join(dict.fromkeys(error.remedy for error in failures.values())),
    )


def _registered(registry: ExpertRegistry, plan: _Plan, slug: str) -> TrainedExpert | None:
    """The newest version trained from exactly this plan, if there is one."""
    versions = [v for v in registry.list(slug) if v.name == plan.expert.name and v.provenance.spec == plan.spec]
    if not versions:
        return None
    version = max(versions, key=lambda found: found.version)
    registry.load(version)
    return _result(plan, version, 0.0)


def _result(plan: _Plan, version: ExpertVersion, seconds: float) -> TrainedExpert:
    metrics = version.provenance.metrics
    return TrainedExpert(
        name=plan.expert.name,
        reference=version.reference,
        z_digest=version.z_digest,
        parameters=int(metrics["parameters"]),
        n=int(metrics["n_after"]),
        reward_before=metrics["reward_before"],
        reward_after=metrics["reward_after"],
        accuracy_before=metrics["accuracy_before"],
        accuracy_after=metrics["accuracy_after"],
        left_out=len(plan.fit.left_out),
        seconds=seconds,
        run_id=version.run_id,
    )


def _storage(storage: str) -> str:
    """An absolute path, or a URI as it is."""
    return storage if "://" in storage else str(Path(storage).resolve())
