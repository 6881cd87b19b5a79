"""``zfleet compare`` and ``zfleet ablate``: every method learns every task with every seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from zfleet.config.compare import AblateSpec, CompareSpec
from zfleet.errors import JobError, ZfleetError
from zfleet.files import write_atomic
from zfleet.models.bundle import BaseBundle, pack_with_targets
from zfleet.rewards.identity import reward_identity
from zfleet.rewards.needs import check_reward
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import data_digest, fit_prompts
from zfleet.tasks.task import Task
from zfleet_cluster import cluster
from zfleet_jobs.capacity import actors_that_fit
from zfleet_jobs.compare.trial import Outcome, Trial, run_trial
from zfleet_jobs.shipping import by_value

_RETRIES = 2
"""How often a training whose process died is begun again."""


def run_experiment(spec: CompareSpec | AblateSpec, address: str | None = None) -> list[Outcome]:
    """Train everything that is not finished already, and give what all gave, in the order of the spec.

    Args:
        spec: The experiment.
        address: A running cluster; None starts one on this machine for as long as the experiment runs.

    Raises:
        ClusterError: No cluster answers.
        JobError: A process died again and again, or the cluster is too small.
        ZfleetError: The experiment's own fault: a task, a reward, a base.
    """
    bundles = pack_with_targets(spec.base, {method.targets or spec.base.targets for method in spec.methods.values()})
    tasks = {name: _fitting(spec, name, next(iter(bundles.values()))) for name in spec.tasks}
    if address is None:
        for task in tasks.values():
            check_reward(task.reward)
    trials = trials_of(spec)
    digests = _digests(spec, bundles, tasks)
    files = {
        trial: Path(spec.storage) / f"{_digest(trial, digests[trial.method, trial.task])}.json" for trial in trials
    }
    finished = {trial: _read(file) for trial, file in files.items() if file.exists()}
    todo = [trial for trial in trials if trial not in finished]
    if todo:
        with cluster(address), _progress(len(trials), len(finished)) as advance:
            for trial, outcome in _train(spec, todo, bundles, tasks):
                write_atomic(files[trial], json.dumps(asdict(outcome), indent=1).encode())
                finished[trial] = outcome
                advance(f"{trial.task} by {trial.method}: {outcome.accuracy:.3f}")
    return [finished[trial] for trial in trials]


def trials_of(spec: CompareSpec | AblateSpec) -> list[Trial]:
    """All trainings of an experiment."""
    return [
        Trial(name, task, seed, method, spec.learner_of(method, seed))
        for name, method in spec.methods.items()
        for task in spec.tasks
        for seed in spec.seeds
    ]


def _train(
    spec: CompareSpec | AblateSpec, todo: list[Trial], bundles: Mapping[str, BaseBundle], tasks: Mapping[str, Task]
) -> Iterator[tuple[Trial, Outcome]]:
    """The outcomes as they come, as many at once as fit."""
    resources = spec.resources
    at_once = actors_that_fit(resources, len(todo))
    # A process each: its memory is its own, and what one leaves behind disturbs no other.
    remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_calls=1, max_retries=_RETRIES)(run_trial)
    sent_bundles = {targets: ray.put(bundle) for targets, bundle in bundles.items()}
    sent_tasks = {name: ray.put(by_value(task)) for name, task in tasks.items()}
    waiting = list(reversed(todo))
    running: dict[Any, Trial] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            trial = waiting.pop()
            bundle, task = sent_bundles[trial.settings.targets or spec.base.targets], sent_tasks[trial.task]
            running[remote.remote(trial, bundle, task, spec.engine, spec.eval_samples, resources.torch_threads)] = trial
        (done, *_), _ = ray.wait(list(running))
        trial = running.pop(done)
        yield trial, _outcome(trial, done)


def _outcome(trial: Trial, done: ray.ObjectRef[Outcome]) -> Outcome:
    try:
        return ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, ZfleetError):
            raise error.cause from error
        raise
    except (WorkerCrashedError, OutOfMemoryError) as error:
        raise JobError(
            f"the process that trained {trial.task} by {trial.method} (seed {trial.seed}) died {_RETRIES + 1} times",
            "look for what killed it, such as too little memory; the same command goes on with what is not finished",
        ) from error


def _fitting(spec: CompareSpec | AblateSpec, name: str, bundle: BaseBundle) -> Task:
    longest = min(spec.engine.max_length or bundle.context, bundle.context)
    return fit_prompts(build_task(spec.tasks[name]), bundle.tokenizer(), longest, bundle.image_reader()).task


def _digests(
    spec: CompareSpec | AblateSpec, bundles: Mapping[str, BaseBundle], tasks: Mapping[str, Task]
) -> dict[tuple[str, str], dict[str, Any]]:
    """By method and task: what an outcome depends on besides the trial."""
    of_tasks = {
        name: [spec.tasks[name].model_dump(), reward_identity(task.reward), data_digest(task)]
        for name, task in tasks.items()
    }
    return {
        (name, task): {
            "factors": bundles[method.targets or spec.base.targets].factors_digest,
            "dtype": spec.base.dtype,
            "device": spec.base.device,
            "task": of_task,
            "engine": spec.engine.model_dump(),
            "eval_samples": spec.eval_samples,
            "threads": spec.resources.torch_threads,
        }
        for name, method in spec.methods.items()
        for task, of_task in of_tasks.items()
    }


def _digest(trial: Trial, depends: Mapping[str, Any]) -> str:
    own = [trial.method, trial.task, trial.settings.model_dump(), trial.learner.model_dump()]
    return hashlib.sha256(json.dumps([own, depends], sort_keys=True).encode()).hexdigest()[:24]


def _read(file: Path) -> Outcome:
    try:
        return Outcome(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise JobError(f"{file} is damaged: {error}", "delete it: its training runs again") from error


@contextmanager
def _progress(total: int, done: int) -> Iterator[Any]:
    console = Console(stderr=True)
    columns = (
        TextColumn("trainings"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total, completed=done)
        yield lambda note: progress.update(bar, advance=1, description=note)
