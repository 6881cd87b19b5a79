"""Cohorts side by side: one thread runs Ray Train for each and registers its experts; the main thread reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from zfleet.config.names import CHAMPION
from zfleet.config.specs import TrainSpec
from zfleet.errors import JobError, RegistryUnreachable, ZfleetError
from zfleet.evaluate.statistics.proportions import wilson
from zfleet.memory.table import MemoryTable
from zfleet.svf.zvector import ZVector
from zfleet_cluster.capacity import actors_that_fit
from zfleet_cluster.fleet.actors import Fleet
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_jobs.code_version import code_version
from zfleet_jobs.run_folder.checkpoints import Z_FILE, ExpertFolder, expert_folder
from zfleet_jobs.run_folder.lock import WriteLease
from zfleet_jobs.run_folder.plan import Plan
from zfleet_jobs.run_folder.storage import writing
from zfleet_jobs.task_shipping import by_value
from zfleet_jobs.train.plan import TrainedExpert, experiment_of, find_version, result_of
from zfleet_jobs.train.progress.board import BoardEvents, start_board
from zfleet_jobs.train.progress.curves import WAIT_SECONDS, Curves, RegistryCalls
from zfleet_jobs.train.progress.deaths import DeathReports
from zfleet_jobs.train.progress.display import TrainDisplay, train_display
from zfleet_jobs.train.worker import CohortJob, ExpertJob, train_loop
from zfleet_registry import ExpertRegistry, ExpertVersion, Parent, Provenance

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.25


class Trainer:
    """Trains plans.

    Args:
        spec: The job.
        shipped: Its base.
        fleet: What generates; None if every worker has an engine of its own.
        registry: Where experts and curves go.
        lease: The right to write to the run's folder.
        memory: What a worker is planned to need.
    """

    def __init__(
        self,
        spec: TrainSpec,
        shipped: ShippedBase,
        fleet: Fleet | None,
        registry: ExpertRegistry,
        lease: WriteLease,
        memory: MemoryTable,
    ) -> None:
        self._spec = spec
        self._shipped = shipped
        self._fleet = fleet
        self._registry = registry
        self._lease = lease
        self._memory = memory
        self._storage = lease.storage
        self._calls = RegistryCalls(registry.address)
        self._curves = Curves(registry, self._calls)
        self._board: Any = start_board()
        self._board_pid: int | None = None

    def train(self, cohorts: Sequence[Sequence[Plan]]) -> dict[str, TrainedExpert]:
        """Train all, a few cohorts at once. One that fails does not stop the others; its error is raised at the end."""
        resources = self._spec.resources
        each = resources.times(self._spec.num_workers)
        at_once = actors_that_fit(each, min(self._spec.concurrent_experts, len(cohorts)))
        results: dict[str, TrainedExpert] = {}
        failures: dict[str, ZfleetError] = {}
        threads = ThreadPoolExecutor(at_once, "zfleet-train")
        steps = {plan.expert.name: self._spec.learner_of(plan.expert).steps for plans in cohorts for plan in plans}
        try:
            with train_display(steps) as display:
                running = {threads.submit(self._train, cohort): cohort for cohort in cohorts}
                while running:
                    finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                    self._follow(display)
                    for future in finished:
                        names = [plan.expert.name for plan in running.pop(future)]
                        trained, failed = future.result()
                        results |= trained
                        failures |= failed
                        for name in names:
                            if name not in results:
                                self._curves.end(name, "FAILED")
                            display.done(name, results[name].reference if name in results else "failed")
        except BaseException as error:
            for name in steps.keys() - results.keys():
                # Ray turns SIGTERM, with which a submitted job is stopped, into SystemExit.
                self._curves.end(name, "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
            raise
        finally:
            self._calls.stopping.set()
            # Ray Train runs that are still under way are actors: they end with the connection to Ray.
            threads.shutdown(wait=False, cancel_futures=True)
        if failures:
            raise _combined(failures, results)
        return results

    def _follow(self, display: TrainDisplay) -> None:
        events: BoardEvents = ray.get(self._board.take.remote())
        if self._board_pid not in (None, events.pid):
            log.warning("the board of the job (pid %d) died; another one took its place", self._board_pid)
        self._board_pid = events.pid
        display.update(events.points)
        for warning in events.warnings:
            log.warning("%s", warning)
        self._curves.add(events.points)

    def _train(self, cohort: Sequence[Plan]) -> tuple[dict[str, TrainedExpert], dict[str, ZfleetError]]:
        """Train experts side by side and register them; experts that finished training before are only registered.

        Returns:
            Those that were registered, and by name the errors of the others.
        """
        began = time.perf_counter()
        trained: dict[str, TrainedExpert] = {}
        failed: dict[str, ZfleetError] = {}
        try:
            runs = [(plan, expert_folder(self._storage, plan)) for plan in cohort]
            for plan, folder in runs:
                self._curves.begin(plan.expert.name, partial(self._start_run, plan, folder))
            unfinished = [(plan, folder) for plan, folder in runs if folder.result() is None]
            if unfinished and (failure := self._fit(unfinished)) is not None:
                failed[_label([plan.expert.name for plan, _ in unfinished])] = failure
        except ZfleetError as error:
            return {}, {_label([plan.expert.name for plan in cohort]): error}
        for plan, folder in runs:
            try:
                if (result := folder.result()) is not None:
                    trained[plan.expert.name] = self._register(plan, folder, *result, began)
            except RegistryUnreachable as error:
                failed[plan.expert.name] = error
                # This one has waited for it: each of the others would wait as long again.
                break
            except ZfleetError as error:
                failed[plan.expert.name] = error
        return trained, failed

    def _register(
        self, plan: Plan, folder: ExpertFolder, z: ZVector, measured: dict[str, float], began: float
    ) -> TrainedExpert:
        """Register the result of training; waits for a registry that is away."""
        name = plan.expert.name
        try:
            version = self._calls.retry(lambda: self._try_to_register(plan, folder, z, measured))
        except RegistryUnreachable as error:
            raise RegistryUnreachable(
                f"expert {name!r} is trained and not registered: {error.message}; it was asked for "
                f"{WAIT_SECONDS:.0f} s. The z is in {folder.storage.place}/{Z_FILE}",
                "bring the registry back: the same command registers the expert, and trains nothing again",
            ) from error
        return result_of(plan, version, time.perf_counter() - began)

    def _start_run(self, plan: Plan, folder: ExpertFolder) -> str:
        """Reopen the registry's run that an expert had before an interruption, or start one; returns its id."""
        before = folder.run_id()
        if before is not None and self._registry.reopen_run(before):
            return before
        run = self._registry.start_run(
            plan.expert.name,
            experiment=experiment_of(self._shipped.slug),
            params={f"learner.{k}": str(v) for k, v in self._spec.learner_of(plan.expert).model_dump().items()},
            tags={"zfleet.spec_digest": plan.digest, "zfleet.task": plan.fit.task.name},
        )
        folder.write_run_id(run)
        return run

    def _fit(self, cohort: Sequence[tuple[Plan, ExpertFolder]]) -> ZfleetError | None:
        """Run Ray Train once, with as many restarts as the spec allows; returns the error that ended it too early."""
        name = _label([plan.expert.name for plan, _ in cohort])
        experts = tuple(
            ExpertJob(
                plan.expert,
                ray.put(by_value(plan.fit.task)),
                folder,
                None if plan.start is None else ray.put(plan.start.z),
            )
            for plan, folder in cohort
        )
        job = CohortJob(name, self._shipped, self._spec, experts, self._board, self._fleet, self._lease)
        first = cohort[0][1]
        resources = self._spec.resources
        on_gpu = resources.gpus > 0
        failures = self._spec.max_failures
        try:
            with writing(first.storage.place):
                TorchTrainer(
                    # Not as `train_loop_config`: Ray Train's controller would unpickle it, and load the model library.
                    partial(train_loop, job),
                    torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
                    scaling_config=ScalingConfig(
                        num_workers=self._spec.num_workers,
                        use_gpu=on_gpu,
                        resources_per_worker=resources.amounts,
                    ),
                    run_config=RunConfig(
                        name=first.name,
                        storage_path=self._storage.place,
                        failure_config=FailureConfig(max_failures=failures),
                        callbacks=[DeathReports(name, self._board, first, failures, self._memory)],  # type: ignore[list-item]
                    ),
                ).fit()
        except (ray.train.TrainingFailedError, RayError) as failure:
            return self._explain(name, failure)
        if all(folder.result() is not None for _, folder in cohort):
            return None
        return self._explain(name, None)

    def _try_to_register(
        self, plan: Plan, folder: ExpertFolder, z: ZVector, measured: dict[str, float]
    ) -> ExpertVersion:
        """Register an expert with its whole curve. Repeatable, should the registry go away half-way."""
        name = plan.expert.name
        run = self._curves.complete(name, folder.curve(name))
        self._registry.log_metrics(run, measured, step=int(measured["steps"]))
        version = find_version(self._registry, plan, self._shipped.slug)
        if version is None:
            learner = self._spec.learner_of(plan.expert)
            provenance = Provenance.of(
                z,
                task=plan.fit.task.name,
                task_digest=plan.task_digest,
                data_digest=plan.data,
                spec=plan.spec,
                code_version=code_version(),
                metrics=measured,
                intervals=_intervals(measured),
                parametrisation=learner.parametrisation,
                seed=learner.seed,
                licence=plan.licence,
                parents=() if plan.start is None else (Parent(plan.start.reference, plan.start.z.digest, 1.0),),
            )
            version = self._registry.register(name, z, provenance, base_name=self._shipped.name, run_id=run)
        version = self._registry.offer(version, CHAMPION)
        self._registry.end_run(run)
        return version

    def _explain(self, name: str, failure: Exception | None) -> ZfleetError:
        cause: ZfleetError | None = ray.get(self._board.error.remote(name))
        if cause is not None:
            return cause
        lines = str(failure or "").strip().splitlines() or ["it ended without a result"]
        return JobError(
            f"training {name} failed: {lines[-1]}",
            f"the same command goes on from the newest checkpoint in {self._storage.place}",
        )


def _intervals(measured: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Return the interval of the accuracy; none if no held-out prompt was graded."""
    n = measured["n_after"]
    return {"accuracy_after": wilson(measured["accuracy_after"], n)} if n else {}


def _label(names: Sequence[str]) -> str:
    """Name a cohort in messages."""
    return ", ".join(names)


def _combined(failures: dict[str, ZfleetError], results: dict[str, TrainedExpert]) -> ZfleetError:
    """Return one error as it is, several as one that names them all and the experts that were registered."""
    if len(failures) == 1:
        return next(iter(failures.values()))
    done = ", ".join(result.reference for result in results.values()) or "none"
    return JobError(
        f"{len(failures)} experts failed (registered: {done}): "
        + "; ".join(f"{name}: {error.message}" for name, error in failures.items()),
        "; ".join(dict.fromkeys(error.remedy for error in failures.values())),
    )
