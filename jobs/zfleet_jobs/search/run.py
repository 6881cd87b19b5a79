"""``zfleet search``: from a spec to a registered mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from zfleet.config.names import Alpha
from zfleet.config.search import SearchSpec
from zfleet.engine.choose import resolve_engine
from zfleet.engine.open import check_engine
from zfleet.errors import ExpertNotFound, SpecError
from zfleet.evaluate.statistics.estimate import Estimate
from zfleet.evaluate.statistics.proportions import wilson
from zfleet.evaluate.statistics.single import paired
from zfleet.memory.jobs import planned
from zfleet.models.bundle import pack_base
from zfleet.rewards.grading import check_reward
from zfleet.search.plan import Generation
from zfleet.svf.zvector import ZVector
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import fit_prompts
from zfleet.tasks.task import Task
from zfleet_cluster import cluster
from zfleet_cluster.fleet.base import ship
from zfleet_jobs.recorded_spec import check_recordable, recorded
from zfleet_jobs.search.mixtures import FoundMixture, finished_mixtures, search_mixtures
from zfleet_jobs.search.prior import Prior, find_prior
from zfleet_jobs.search.problem import SearchProblem, drawn, drawn_from_test
from zfleet_jobs.search.register import EXPERIMENT, register_mixture
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.task_shipping import by_value
from zfleet_registry import ExpertRegistry
from zfleet_registry.version import ExpertVersion


@dataclass(frozen=True)
class SearchResult:
    """A search and what it registered.

    Attributes:
        reference: The registered mixture, such as ``exam/1``.
        alphas: {expert's reference: coefficient}.
        accuracy: Of the mixture on held-out prompts; None if none were asked.
        over_base: The mixture's accuracy minus the base's, on the same held-out prompts.
        over_best_single: The same against the expert that is best alone on the shots.
        best_single: That expert.
        test: How many held-out prompts.
        chosen_by: What chose it: the fresh prompts of the `selection`, the `shots` alone, or the `method` (`reference`
            returns its own best, as the paper's code does).
        on_shots: Of the mixture on the shots it was searched on: an optimistic number.
        whole_test: For method `reference`, whose shots are of the test split: the accuracy on all of it, as the paper
            counts; None for the others.
        z_digest: Of the mixture.
        shots, selection: How many prompts it was searched on, and chosen by.
        evaluations: Answers to these prompts.
        left_out: Training prompts that do not fit the engine and could not be drawn.
        trials: Tune trials.
        actors: Ids of the Ray actors that ran them.
        batch_rows: The most engine rows in one step, of each trial (of a fleet's trials: until its end).
        history: Best and mean value of each generation.
        seconds: Of the Tune run; 0 if a finished one was used again.
    """

    reference: str
    alphas: Mapping[str, Alpha]
    accuracy: Estimate | None
    over_base: Estimate | None
    over_best_single: Estimate | None
    best_single: str
    test: int
    chosen_by: Literal["selection", "shots", "method"]
    on_shots: float
    whole_test: float | None
    z_digest: str
    shots: int
    selection: int
    evaluations: int
    left_out: int
    trials: int
    actors: tuple[str, ...]
    batch_rows: tuple[int, ...]
    history: tuple[Generation, ...]
    seconds: float


def run_search(spec: SearchSpec, address: str | None = None) -> SearchResult:
    """Search the best mixture of the spec's experts on a few shots of its task, and register it as its champion.

    A search that finished before is not run again and needs no cluster; its mixture is not registered again.

    Args:
        spec: The job.
        address: A running Ray cluster; by default one is started on this machine for the search.

    Raises:
        ExpertNotFound, RegistryUnreachable: An expert cannot be loaded.
        RegistryError: The experiment of searches was deleted in MLflow.
        SpecError, TaskError, BaseModelError, EngineError: The spec names something that cannot be used.
        JobError: No resources, or a failed trial; running it again resumes.
        KeyboardInterrupt: Ctrl-C; running it again resumes.
    """
    task = build_task(spec.task)
    check_recordable(spec)
    registry = ExpertRegistry(spec.registry)
    registry.check_experiments(EXPERIMENT)
    spec = resolve_engine(spec)
    settings = SearchSettings.of(spec)
    bundle = pack_base(spec.base)
    versions = _resolve(registry, spec.experts, bundle.slug)
    experts = {reference: registry.load(version) for reference, version in versions.items()}
    max_length = min(spec.engine.max_length or bundle.context, bundle.context)
    fit = fit_prompts(task, bundle.tokenizer(), max_length, bundle.image_reader())
    prior = None if spec.space.prior is None else find_prior(registry, spec.space.prior, bundle, experts)
    problem = problem_of(spec, experts, fit.task, prior)
    problems = [problem]
    results = finished_mixtures(bundle, problems, settings, Path(spec.storage), spec.name)
    if results is None:
        if address is None:
            check_engine(spec.engine)
            check_reward(task.reward)
        planned(spec, bundle.model, [fit])
        with cluster(address):
            results = search_mixtures(ship(bundle), problems, settings, Path(spec.storage), spec.name)
    (mixture,) = results
    _check_still_there(registry, versions.values())
    if prior is not None:
        spec = spec.model_copy(update={"space": spec.space.model_copy(update={"prior": prior.reference})})
    stored = recorded(spec).model_dump_json()
    registered = register_mixture(registry, mixture, problem.task, experts, bundle, stored)
    return _result(spec, problem, mixture, registered.reference, len(fit.left_out))


def problem_of(
    spec: SearchSpec, experts: Mapping[str, ZVector], task: Task, prior: Prior | None = None
) -> SearchProblem:
    """Draw the shots, the samples of the selection and those of the test.

    Args:
        experts: {reference: z}.
        task: The spec's, without the prompts that do not fit.
        prior: The dispatcher of the spec's ``space.prior``.

    Raises:
        JobError: There are too few prompts.
    """
    if spec.method.name == "reference":
        return SearchProblem(spec.name, experts, by_value(drawn_from_test(task, spec.shots, spec.shots_seed)))
    shots, selection = drawn(task, spec.shots, spec.finals, spec.shots_seed)
    task = by_value(replace(shots, test=task.test[: spec.test_samples]))
    return SearchProblem(spec.name, experts, task, selection, prior)


def _result(
    spec: SearchSpec, problem: SearchProblem, mixture: FoundMixture, reference: str, left_out: int
) -> SearchResult:
    winner = mixture.test.get("winner")
    shots, whole = len(problem.task.train), None
    if spec.method.name == "reference" and winner is not None:
        whole = (mixture.score.value * shots + sum(winner)) / (shots + len(winner))
    return SearchResult(
        reference=reference,
        alphas=mixture.alphas,
        accuracy=None if winner is None else _accuracy(winner),
        over_base=None if winner is None else paired(winner, mixture.test["base"]),
        over_best_single=None if winner is None else paired(winner, mixture.test["best_single"]),
        best_single=max(mixture.singles, key=lambda name: (mixture.singles[name].value, mixture.singles[name].tie)),
        test=len(winner or ()),
        chosen_by="method" if spec.method.name == "reference" else "selection" if spec.finals else "shots",
        on_shots=mixture.score.value,
        whole_test=whole,
        z_digest=mixture.z.digest,
        shots=shots,
        selection=len(problem.selection),
        evaluations=mixture.evaluations,
        left_out=left_out,
        trials=len(mixture.trials),
        actors=mixture.actors,
        batch_rows=tuple(trial.batch_rows for trial in mixture.trials),
        history=mixture.history,
        seconds=mixture.seconds,
    )


def _accuracy(right: Sequence[bool]) -> Estimate:
    mean = sum(right) / len(right)
    return Estimate(mean, *wilson(mean, len(right)))


def _check_still_there(registry: ExpertRegistry, versions: Iterable[ExpertVersion]) -> None:
    """Refuse to register a mixture of an expert that was deleted while the search ran.

    Raises:
        ExpertNotFound: Names the expert.
    """
    for version in versions:
        try:
            registry.resolve(version.qualified)
        except ExpertNotFound as error:
            raise ExpertNotFound(
                f"expert {version.reference} was deleted while the search ran: its mixture is not registered",
                "register the expert again and name it in `experts`, or leave it out; the search's answers are kept",
            ) from error


def _resolve(registry: ExpertRegistry, references: tuple[str, ...], slug: str) -> dict[str, ExpertVersion]:
    versions: dict[str, ExpertVersion] = {}
    for reference in references:
        version = registry.resolve(reference, slug)
        if version.reference in versions:
            raise SpecError(f"experts name {version.reference} twice ({reference})", "name each version once")
        versions[version.reference] = version
    return versions
