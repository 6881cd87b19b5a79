"""``zfleet transfer``: experts of one base on another one, ordered, shuffled, and searched again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zfleet.config.names import Alpha
from zfleet.config.transfer import TransferSpec
from zfleet.engine.choose import resolve_engine
from zfleet.engine.open import check_engine
from zfleet.errors import SpecError
from zfleet.memory.jobs import planned
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.models.licence import licence_of
from zfleet.rewards.grading import check_reward
from zfleet.svf.transfer import shuffled, transfer
from zfleet.svf.zvector import ZVector
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import fit_prompts
from zfleet.tasks.task import Task
from zfleet_cluster import cluster
from zfleet_cluster.fleet.base import ShippedBase, ship
from zfleet_jobs.code_version import code_version
from zfleet_jobs.recorded_spec import check_recordable, recorded
from zfleet_jobs.search.mixtures import search_mixtures
from zfleet_jobs.search.problem import SearchProblem, shots_of
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.task_shipping import by_value
from zfleet_jobs.transfer.answers import rewards_under
from zfleet_jobs.transfer.bases import check_bases, origin_of
from zfleet_jobs.transfer.findings import BASE, ORDERED, SEARCHED, SHUFFLED, Finding, Way, findings
from zfleet_registry import ExpertRegistry, ExpertVersion, Parent, Provenance
from zfleet_registry.references import check_name
from zfleet_registry.runs import REGISTRATIONS


@dataclass(frozen=True)
class TransferResult:
    """A transfer.

    Attributes:
        origin: The slug of the base that the experts were trained on.
        base: The slug of the base that they were transferred to.
        task: What they were measured on.
        findings: The base, each expert ordered and shuffled, and the searched mixture.
        alphas: Of the searched mixture, {expert: coefficient}; None without a search.
        registered: References to the versions of the ordered experts; none unless asked for.
    """

    origin: str
    base: str
    task: str
    findings: tuple[Finding, ...]
    alphas: Mapping[str, Alpha] | None
    registered: tuple[str, ...]


def run_transfer(spec: TransferSpec, address: str | None = None) -> TransferResult:
    """Transfer experts to another base, and grade its test prompts under the base and under every z.

    Args:
        spec: The job.
        address: A running Ray cluster; by default one is started on this machine for the job.

    Raises:
        WrongBase, InvalidZ: The bases differ in a target matrix, or an expert has other factors than the origin.
        ExpertNotFound, RegistryUnreachable: An expert cannot be loaded.
        SpecError, TaskError, BaseModelError, EngineError: The spec names something that cannot be used.
        JobError: No resources, or a failed search; running it again resumes the search.
    """
    task = build_task(spec.task)
    check_recordable(spec)
    registry = ExpertRegistry(spec.registry)
    if spec.register_ordered:
        registry.check_experiments(REGISTRATIONS)
    spec = resolve_engine(spec)
    check_bases(spec)
    origin, bundle = pack_base(origin_of(spec)), pack_base(spec.base)
    versions = _resolve(registry, spec, origin)
    factors, to = origin.factor_folder().load(), bundle.factor_folder().load()
    ordered = {name: transfer(registry.load(version), factors, to) for name, version in versions.items()}
    fit = fit_prompts(task, bundle.tokenizer(), spec.engine.longest(bundle.context), bundle.image_reader())
    measured = replace(fit.task, train=(), test=fit.task.test[: spec.eval_samples])
    planned(spec, bundle.model, [fit])
    if address is None:
        check_engine(spec.engine)
        check_reward(task.reward)
    zs: dict[Way, ZVector | None] = {(BASE, ""): None}
    for name, z in ordered.items():
        zs |= {(ORDERED, name): z, (SHUFFLED, name): shuffled(z, spec.shuffle_seed)}
    alphas = None
    with cluster(address):
        shipped = ship(bundle)
        if spec.search:
            alphas, zs[SEARCHED, ""] = _searched(spec, shipped, ordered, fit.task)
        answered = rewards_under(
            shipped, spec.engine, spec.resources, measured, list(zs.values()), spec.task.reward.on_error == "skip"
        )
    found = findings(dict(zip(zs, answered, strict=True)))
    return TransferResult(
        origin.slug,
        bundle.slug,
        task.name,
        tuple(found),
        alphas,
        _registered(registry, spec, versions, ordered, found, origin, bundle) if spec.register_ordered else (),
    )


def name_on(version: ExpertVersion, origin: BaseBundle) -> str:
    """Name an expert that was transferred: ``math`` of the base lab-1a2b3c4d is ``math-from-lab-1a2b3c4d``."""
    return f"{version.name}-from-{origin.slug}"


def _resolve(registry: ExpertRegistry, spec: TransferSpec, origin: BaseBundle) -> dict[str, ExpertVersion]:
    """Find the experts, and refuse those that cannot be transferred: {reference: version}.

    Raises:
        ExpertNotFound, RegistryError: There is no such version, or the name of its transfer would be too long.
        SpecError: A version is named twice, or its targets are not the job's.
    """
    versions: dict[str, ExpertVersion] = {}
    for reference in spec.experts:
        version = registry.resolve(reference, origin.slug)
        if version.reference in versions:
            raise SpecError(f"experts name {version.reference} twice ({reference})", "name each version once")
        targets = version.provenance.targets
        if targets != spec.base.targets:
            raise SpecError(
                f"{version.qualified} has targets {targets!r}, base.targets is {spec.base.targets!r}",
                f"set base.targets to {targets!r}, and transfer experts of other targets in another job",
            )
        if spec.register_ordered:
            check_name(name_on(version, origin))
        versions[version.reference] = version
    return versions


def _searched(
    spec: TransferSpec, shipped: ShippedBase, experts: Mapping[str, ZVector], task: Task
) -> tuple[Mapping[str, Alpha], ZVector]:
    shots = shots_of(task, spec.shots, spec.shots_seed)
    problem = SearchProblem("transferred", experts, by_value(shots))
    settings = SearchSettings(engine=spec.engine, resources=spec.resources)
    (mixture,) = search_mixtures(shipped, [problem], settings, Path(spec.storage), "transfer")
    return mixture.alphas, mixture.z


def _registered(
    registry: ExpertRegistry,
    spec: TransferSpec,
    versions: Mapping[str, ExpertVersion],
    ordered: Mapping[str, ZVector],
    found: Sequence[Finding],
    origin: BaseBundle,
    bundle: BaseBundle,
) -> tuple[str, ...]:
    """Register the ordered experts under the other base; one that was registered before is not registered again."""
    accuracy = {(one.way, one.expert): one.accuracy.mean for one in found}
    references = []
    for reference, z in ordered.items():
        version = versions[reference]
        provenance = Provenance.of(
            z,
            task=version.provenance.task,
            data_digest=version.provenance.data_digest,
            spec=recorded(spec).model_dump_json(),
            code_version=code_version(),
            metrics={
                "accuracy": accuracy[ORDERED, reference],
                "accuracy_base": accuracy[BASE, ""],
                "accuracy_shuffled": accuracy[SHUFFLED, reference],
            },
            parents=(Parent(version.qualified, version.z_digest, 1.0),),
            kind="transfer",
            source_base=origin.fingerprint,
            licence=licence_of(bundle.model),
        )
        name = name_on(version, origin)
        known = registry.find(name, z)
        references.append((known or registry.register(name, z, provenance, base_name=bundle.name)).reference)
    return tuple(references)
