"""``zfleet compare`` and ``zfleet ablate``: every method learns every task with every seed."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from zfleet.config.compare import AblateSpec, CompareSpec, learns_from_references
from zfleet.errors import ZfleetError
from zfleet.memory.chosen import Chosen
from zfleet.memory.jobs import planned_experiment, room_here
from zfleet.memory.keys import TRAIN_KEYS
from zfleet.memory.worker import TaskSize, traced_base
from zfleet.models.bundle import BaseBundle, locate_base, pack_with_targets
from zfleet.rewards.grading import check_reward
from zfleet.rl.reference_answers import check_references
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import FitReport, fit_prompts
from zfleet.tasks.task import Task
from zfleet_cluster import cluster
from zfleet_cluster.capacity import actors_that_fit
from zfleet_cluster.errors import memory_death
from zfleet_jobs.code_version import code_version
from zfleet_jobs.compare.outcome import Failure, Outcome, Results
from zfleet_jobs.compare.stored import StoredTrial, open_storage, store_spec, stored_trials, warn_of_other_code
from zfleet_jobs.compare.trial import Trial, run_trial
from zfleet_jobs.task_shipping import by_value

_RETRIES = 2
"""How often a training whose process died is begun again."""

log = logging.getLogger(__name__)


def run_experiment(spec: CompareSpec | AblateSpec, address: str | None = None) -> Results:
    """Train everything that is not finished already, and return all outcomes.

    A training that fails does not hold up the others: the results say so, and the next call tries it again.

    Args:
        spec: The experiment.
        address: A running cluster; None starts one on this machine for as long as the experiment runs.

    Raises:
        ClusterError: No cluster answers.
        JobError: The storage cannot be read or written, or the cluster is too small.
        ZfleetError: The experiment's own fault: a task, a reward, a base.
    """
    trials = trials_of(spec)
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
        chosen = _plan_memory(spec, list(fits.values()))
        store_spec(storage, spec)
        # Trainings run side by side: shuffled, no method has all of its trainings at the busiest time.
        random.Random(0).shuffle(todo)
        with cluster(address), _progress(len(trials), len(finished)) as advance:
            for trial, result in _train(spec, todo, stored, bundles, tasks, chosen):
                if isinstance(result, Failure):
                    failed[trial] = result
                    advance(f"{trial}: failed")
                    continue
                stored[trial].store(result)
                finished[trial] = result
                advance(f"{trial}: {result.accuracy:.3f}")
    return Results(
        [finished[trial] for trial in trials if trial in finished],
        [failed[trial] for trial in trials if trial in failed],
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


def _plan_memory(spec: CompareSpec | AblateSpec, fits: Sequence[FitReport]) -> Chosen:
    """Choose the size of micro-batches; as ``planned_experiment``."""
    base = traced_base(locate_base(spec.base)[1], spec.base)
    chosen, _ = planned_experiment(spec, base, [TaskSize.of(fit) for fit in fits], room_here(spec, base))
    return chosen


def _train(
    spec: CompareSpec | AblateSpec,
    todo: list[Trial],
    stored: Mapping[Trial, StoredTrial],
    bundles: Mapping[str, BaseBundle],
    tasks: Mapping[str, Task],
    chosen: Chosen,
) -> Iterator[tuple[Trial, Outcome | Failure]]:
    """Run trainings, as many at once as fit, and yield each result as it comes."""
    resources = spec.resources
    at_once = actors_that_fit(resources, len(todo))
    # Each in a process of its own: its memory is measured, and it leaves nothing behind for the next.
    options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    if resources.memory_bytes is not None:
        options["memory"] = resources.memory_bytes
    remote = ray.remote(**options, max_calls=1, max_retries=_RETRIES)(run_trial)
    sent_bundles = {targets: ray.put(bundle) for targets, bundle in bundles.items()}
    sent_tasks = {name: ray.put(by_value(task)) for name, task in tasks.items()}
    waiting = list(reversed(todo))
    running: dict[Any, Trial] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            trial = waiting.pop()
            bundle, task = sent_bundles[_targets(spec, trial)], sent_tasks[trial.task]
            sized = replace(trial, learner=chosen.learner(trial.learner))
            running[remote.remote(sized, bundle, task, spec, stored[trial].samples, code_version())] = trial
        (done, *_), _ = ray.wait(list(running))
        trial = running.pop(done)
        yield trial, _result(trial, done)


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


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[str], None]]:
    console = Console(stderr=True)
    columns = (
        TextColumn("trainings"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        # A method's name may be a pattern, whose brackets are no markup.
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total, completed=done)
        yield lambda note: progress.update(bar, advance=1, description=note)
