"""``zfleet search``: from a spec to a registered mixture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zfleet.config.names import CHAMPION, Alpha
from zfleet.config.specs import SearchSpec
from zfleet.engine.choose import resolve_engine
from zfleet.engine.open import check_engine
from zfleet.errors import SpecError
from zfleet.memory.jobs import planned
from zfleet.models.base import Base
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.rewards.grading import check_reward
from zfleet.search.cross_entropy import Generation
from zfleet.svf.zvector import ZVector
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import data_digest, fit_prompts
from zfleet.tasks.task import Task
from zfleet_cluster import cluster
from zfleet_cluster.fleet.base import ship
from zfleet_jobs.code_version import code_version
from zfleet_jobs.search.mixtures import FoundMixture, finished_mixtures, search_mixtures
from zfleet_jobs.search.problem import SearchProblem, SearchSettings, shots_of
from zfleet_jobs.task_shipping import by_value
from zfleet_registry import ExpertRegistry
from zfleet_registry.provenance import Parent, Provenance
from zfleet_registry.version import ExpertVersion

EXPERIMENT = "search"
"""The registry's experiment that holds all searches."""


@dataclass(frozen=True)
class SearchResult:
    """A search and what it registered.

    Attributes:
        reference: The registered mixture, such as ``exam/1``.
        alphas: {expert's reference: coefficient}.
        accuracy: Of the mixture on the shots.
        log_likelihood: Of a correct answer, averaged over the shots.
        z_digest: Of the mixture.
        shots: How many prompts it was searched on.
        left_out: Training prompts that do not fit the engine and could not be drawn.
        trials: Tune trials.
        actors: Ids of the Ray actors that ran them.
        batch_rows: The most engine rows in one step, of each trial (of a fleet's trials: until its end).
        history: Best and mean accuracy of each generation.
        seconds: Of the Tune run; 0 if a finished one was used again.
    """

    reference: str
    alphas: Mapping[str, Alpha]
    accuracy: float
    log_likelihood: float
    z_digest: str
    shots: int
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
    registry = ExpertRegistry(spec.registry)
    registry.check_experiments(EXPERIMENT)
    spec = resolve_engine(spec)
    settings = settings_of(spec)
    bundle = pack_base(spec.base)
    versions = _resolve(registry, spec.experts, bundle.slug)
    experts = {reference: registry.load(version) for reference, version in versions.items()}
    max_length = min(spec.engine.max_length or bundle.context, bundle.context)
    fit = fit_prompts(task, bundle.tokenizer(), max_length, bundle.image_reader())
    shots = shots_of(fit.task, spec.shots, spec.shots_seed)
    problems = [SearchProblem(spec.name, experts, by_value(shots))]
    results = finished_mixtures(bundle, problems, settings, Path(spec.storage), spec.name)
    if results is None:
        if address is None:
            check_engine(spec.engine)
            check_reward(task.reward)
        planned(spec, bundle.model, [fit])
        with cluster(address):
            results = search_mixtures(ship(bundle), problems, settings, Path(spec.storage), spec.name)
    (mixture,) = results
    registered = register_mixture(registry, mixture, shots, experts, bundle, spec.model_dump_json())
    return SearchResult(
        reference=registered.reference,
        alphas=mixture.alphas,
        accuracy=mixture.score.accuracy,
        log_likelihood=mixture.score.log_likelihood,
        z_digest=mixture.z.digest,
        shots=len(shots.train),
        left_out=len(fit.left_out),
        trials=len(mixture.trials),
        actors=mixture.actors,
        batch_rows=tuple(trial.batch_rows for trial in mixture.trials),
        history=mixture.history,
        seconds=mixture.seconds,
    )


def settings_of(spec: SearchSpec) -> SearchSettings:
    """Select the settings of a search from its spec."""
    return SearchSettings(
        population=spec.population,
        generations=spec.generations,
        elites=spec.elites,
        per_layer=spec.per_layer,
        trials_per_generation=spec.trials_per_generation,
        engine=spec.engine,
        resources=spec.resources,
        seed=spec.seed,
    )


def register_mixture(
    registry: ExpertRegistry,
    mixture: FoundMixture,
    shots: Task,
    experts: Mapping[str, ZVector],
    base: Base | BaseBundle,
    spec: str = "",
) -> ExpertVersion:
    """Register the winner under the search's name, with the experts as parents and the curve in a run.

    The rule for what is served by default is that of training: every new version of a name becomes its
    champion. A mixture whose very z is a version of that name already is not registered again, and no alias
    moves: a roll-back to another version stays.

    Args:
        experts: {reference: z}, as searched over.
        spec: The job's spec, as JSON.

    Returns:
        The new version, or the newest one that has this z.

    Raises:
        CorruptArtifact: There is one, and its file is damaged.
    """
    known = [v for v in registry.list(base.slug) if v.name == mixture.name and v.z_digest == mixture.z.digest]
    if known:
        newest = max(known, key=lambda one: one.version)
        registry.load(newest)
        return newest
    parents = tuple(Parent(reference, z.digest, mixture.alphas[reference]) for reference, z in experts.items())
    metrics = {
        "shots_accuracy": mixture.score.accuracy,
        "shots_log_likelihood": mixture.score.log_likelihood,
        "shots_accuracy_base": mixture.base.accuracy,
        "shots_accuracy_best_single": max(score.accuracy for score in mixture.singles.values()),
    }
    provenance = Provenance.of(
        mixture.z,
        task=shots.name,
        data_digest=data_digest(shots),
        spec=spec,
        code_version=code_version(),
        metrics=metrics,
        parents=parents,
        kind="mixture",
    )
    run = registry.start_run(
        mixture.name, experiment=EXPERIMENT, params={"task": shots.name, "shots": str(len(shots.train))}
    )
    try:
        registry.log_curve(
            run, [(step, {"best": one.best, "mean": one.mean}) for step, one in enumerate(mixture.history)]
        )
        registry.log_metrics(run, metrics, step=len(mixture.history) - 1)
        registered = registry.register(
            mixture.name, mixture.z, provenance, base_name=base.name, run_id=run, alias=CHAMPION
        )
    except BaseException:
        registry.end_run(run, "FAILED")
        raise
    registry.end_run(run)
    return registered


def _resolve(registry: ExpertRegistry, references: tuple[str, ...], slug: str) -> dict[str, ExpertVersion]:
    versions: dict[str, ExpertVersion] = {}
    for reference in references:
        version = registry.resolve(reference, slug)
        if version.reference in versions:
            raise SpecError(f"experts name {version.reference} twice ({reference})", "name each version once")
        versions[version.reference] = version
    return versions
