"""``zfleet compare`` and ``zfleet ablate``: every method learns every task with every seed."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from zfleet.config.compare import AblateSpec, CompareSpec, learns_from_references
from zfleet.errors import ZfleetError
from zfleet.memory.chosen import Chosen
from zfleet.memory.jobs import planned_experiment, room_here
from zfleet.memory.keys import TRAIN_KEYS
from zfleet.memory.worker import TaskSize, traced_base
from zfleet.models.bundle import BaseBundle, pack_with_targets
from zfleet.rewards.grading import check_reward
from zfleet.rl.reference_answers import check_references
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import FitReport, fit_prompts
from zfleet.tasks.task import Task
from zfleet_cluster import cluster
from zfleet_cluster.capacity import actors_that_fit, ray_options
from zfleet_cluster.errors import memory_death
from zfleet_cluster.fleet.base import ship
from zfleet_jobs.code_version import code_version
from zfleet_jobs.compare.outcome import Failure, Outcome, Results
from zfleet_jobs.compare.progress import ExperimentProgress, OnProgress, Pace, progress_bar
from zfleet_jobs.compare.stored import StoredTrial, open_storage, store_spec, stored_trials, warn_of_other_code
from zfleet_jobs.compare.trial import Trial, run_trial
from zfleet_jobs.recorded_spec import check_recordable
from zfleet_jobs.task_shipping import by_value

_RETRIES = 2
"""How often a training whose process died is begun again."""

_REPORT_SECONDS = 2.0

log = logging.getLogger(__name__)


def run_experiment(
    spec: CompareSpec | AblateSpec,
    address: str | None = None,
    trials: Sequence[Trial] | None = None,
    on_progress: OnProgress | None = None,
) -> Results:
    """Train everything that is not finished already, and return all outcomes.

    A training that was cut short goes on from its newest checkpoint. One that fails does not hold up the others: the
    results say so, and the next call tries it again.

    Args:
        spec: The experiment.
        address: A running cluster; None starts one on this machine for as long as the experiment runs, unless this
            process is connected to one.
        trials: Which of the experiment's trainings; None for all.
        on_progress: Is told how far the experiment is; None shows a bar in a terminal.

    Raises:
        ClusterError: No cluster answers.
        JobError: The storage cannot be read or written, or the cluster is too small.
        ZfleetError: The experiment's own fault: a task, a reward, a base.
    """
    check_recordable(spec)
    trials = trials_of(spec) if trials is None else trials
    bundles = pack_with_targets(spec.base, {_targets(spec, trial) for trial in trials})
    fits = _fitting(spec, next(iter(bundles.values())))
    tasks = {name: fit.task for name, fit in fits.items()}
    if address is None:
        for task in tasks.values():
            check_reward(task.reward)
    storage = open_storage(spec)
    stored = stored_trials(storage, spec, trials, bundles, tasks)
    finished = {trial: outcome for trial in trials if (outcome := stored[trial].outcome()) is not None}
    warn_of_other_code(finished.values(), code_version(), storage)
    failed: dict[Trial, Failure] = {}
    todo = [trial for trial in trials if trial not in finished]
    if todo:
        chosen = _plan_memory(spec, next(iter(bundles.values())).model, list(fits.values()))
        store_spec(storage, spec)
        # Trainings run side by side: shuffled, no method has all of its trainings at the busiest time.
        random.Random(0).shuffle(todo)
        with ExitStack() as stack:
            stack.enter_context(cluster(address))
            report = _Reporter(stored, on_progress or stack.enter_context(progress_bar()))
            for trial, result in _train(spec, todo, stored, bundles, tasks, chosen, report):
                if isinstance(result, Failure):
                    failed[trial] = result
                    report.ended(trial, "failed")
                    continue
                stored[trial].store(result)
                finished[trial] = result
                report.ended(trial, f"{result.accuracy:.3f}")
    return Results(
        [finished[trial] for trial in trials if trial in finished],
        [failed[trial] for trial in trials if trial in failed],
    )


class _Reporter:
    """Tells how far the trainings are, from the steps that they have written."""

    def __init__(self, stored: Mapping[Trial, StoredTrial], on_progress: OnProgress) -> None:
        self._stored = stored
        self._tell = on_progress
        self._ended = {trial for trial, place in stored.items() if place.outcome() is not None}
        self._pace = Pace(self._steps_done())

    def ended(self, trial: Trial, how: str) -> None:
        """Report that a training has ended."""
        self._ended.add(trial)
        self.now(f"{trial}: {how}")

    def now(self, note: str = "") -> None:
        """Report how far all trainings are."""
        done, steps = self._steps_done(), sum(trial.learner.steps for trial in self._stored)
        left = self._pace.seconds_left(done, steps)
        self._tell(ExperimentProgress(len(self._stored), len(self._ended), steps, done, left, note))

    def _steps_done(self) -> int:
        return sum(
            trial.learner.steps if trial in self._ended else place.folder.steps_done()
            for trial, place in self._stored.items()
        )


def trials_of(spec: CompareSpec | AblateSpec) -> list[Trial]:
    """List all trainings of an experiment."""
    return [
        Trial(name, task, seed, method, spec.learner_of(method, seed))
        for name, method in spec.methods.items()
        for task in spec.tasks
        for seed in spec.seeds
    ]


def _targets(spec: CompareSpec | AblateSpec, trial: Trial) -> str:
    return trial.settings.targets or spec.base.targets


def _plan_memory(spec: CompareSpec | AblateSpec, folder: Path, fits: Sequence[FitReport]) -> Chosen:
    """Choose the size of micro-batches; as ``planned_experiment``."""
    base = traced_base(folder, spec.base)
    chosen, _ = planned_experiment(spec, base, [TaskSize.of(fit) for fit in fits], room_here(spec, base))
    return chosen


def _train(
    spec: CompareSpec | AblateSpec,
    todo: list[Trial],
    stored: Mapping[Trial, StoredTrial],
    bundles: Mapping[str, BaseBundle],
    tasks: Mapping[str, Task],
    chosen: Chosen,
    report: _Reporter,
) -> Iterator[tuple[Trial, Outcome | Failure]]:
    """Run trainings, as many at once as fit, and yield each result as it comes."""
    resources = spec.resources
    at_once = actors_that_fit(resources, len(todo))
    # Each in a process of its own: its memory is measured, and it leaves nothing behind for the next.
    options: dict[str, Any] = {**ray_options(resources), "max_calls": 1, "max_retries": _RETRIES}
    remote = ray.remote(**options)(run_trial)
    shipped = {targets: ship(bundle) for targets, bundle in bundles.items()}
    sent_tasks = {name: ray.put(by_value(task)) for name, task in tasks.items()}
    waiting = list(reversed(todo))
    running: dict[Any, Trial] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            trial = waiting.pop()
            base, task = shipped[_targets(spec, trial)], sent_tasks[trial.task]
            sized = replace(trial, learner=chosen.learner(trial.learner))
            running[remote.remote(sized, base, task, spec, stored[trial].folder, code_version())] = trial
        done, _ = ray.wait(list(running), timeout=_REPORT_SECONDS)
        report.now()
        for one in done:
            trial = running.pop(one)
            yield trial, _result(trial, one)


def _result(trial: Trial, done: ray.ObjectRef[Outcome]) -> Outcome | Failure:
    """Return what a training gave, or why it failed; an unexpected error is raised."""
    try:
        return ray.get(done)
    except RayTaskError as error:
        if not isinstance(error.cause, ZfleetError):
            raise
        return Failure(trial.method, trial.task, trial.seed, error.cause.message, error.cause.remedy)
    except (WorkerCrashedError, OutOfMemoryError) as error:
        death = memory_death(error)
        return Failure(
            trial.method,
            trial.task,
            trial.seed,
            f"its process {death or f'died {_RETRIES + 1} times'}",
            f"lower {TRAIN_KEYS}" if death else "look for what killed it, such as too little memory",
        )


def _fitting(spec: CompareSpec | AblateSpec, bundle: BaseBundle) -> dict[str, FitReport]:
    """Build the tasks, without prompts that do not fit, and check the reference answers that a method needs."""
    tokenizer, reader = bundle.tokenizer(), bundle.image_reader()
    longest = min(spec.engine.max_length or bundle.context, bundle.context)
    fits = {}
    for name, task in spec.tasks.items():
        fit = fit_prompts(build_task(task), tokenizer, longest, reader)
        if fit.left_out:
            log.warning("%s", fit)
        if learns_from_references(spec):
            check_references(fit.task, tokenizer, bundle.context, reader)
        fits[name] = fit
    return fits
