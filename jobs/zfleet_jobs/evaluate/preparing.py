"""Check an evaluation and get it ready: everything that can be wrong is found before a cluster is started."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.evaluate import EvaluateSpec
from zfleet.engine.choose import resolve_engine
from zfleet.errors import SpecError, TaskError, WrongBase
from zfleet.evaluate.splits import check_disjoint, split
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import FitReport, fit_prompts, prompt_length
from zfleet.tasks.task import Task
from zfleet_jobs.evaluate.dispatchers import bare_dispatcher
from zfleet_jobs.evaluate.identity import EngineIdentity, run_digest
from zfleet_jobs.evaluate.prepared import Prepared, expert_names
from zfleet_jobs.search.prior import find_prior
from zfleet_registry import ExpertRegistry, ExpertVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Ready:
    """An evaluation that is ready to run.

    Attributes:
        prepared: The evaluation.
        bundle: Its base.
        fits: Of each task, which prompts fit.
        folder: Of the run: its name ends in a digest of all that the outcome depends on.
    """

    prepared: Prepared
    bundle: BaseBundle
    fits: Mapping[str, FitReport]
    folder: Path


def get_ready(spec: EvaluateSpec, registry: ExpertRegistry) -> Ready:
    """Load experts and tasks, split the tasks, and check that all belongs together.

    Raises:
        ExpertNotFound, RegistryUnreachable: An expert cannot be loaded.
        WrongBase: An expert is of another base, or of other factors.
        TaskError: A task cannot be used, or shots, selection and test share prompts; lists the rows.
        SpecError, BaseModelError, EngineError: The spec names something that cannot be used.
    """
    tasks = {name: build_task(task) for name, task in spec.tasks.items()}
    spec = resolve_engine(spec)
    bundle = pack_base(spec.base)
    versions = _resolved(registry, spec, bundle)
    experts = {reference: _loaded(registry, version, bundle) for reference, version in versions.items()}
    # Experts of other targets do not mix, which every search and the uniform mixture would find out later.
    mix(list(experts.values()), [1.0] * len(experts))
    fits = _fitting(spec, tasks, bundle)
    tasks = {name: fit.task for name, fit in fits.items()}
    splits = {name: split(task, spec.selection_samples, spec.eval_samples) for name, task in tasks.items()}
    check_disjoint(splits, max(spec.shots), spec.draws)
    dispatchers, reached = _dispatchers(registry, spec, bundle, experts)
    priors = {
        name: find_prior(registry, prior, bundle, experts)
        for name in spec.searches
        if (prior := spec.space_of(name).prior) is not None
    }
    engine = EngineIdentity.of(bundle, spec.engine)
    prepared = Prepared(
        spec=spec,
        engine=engine,
        tasks=tasks,
        splits=splits,
        experts=experts,
        own_tasks={reference: _own_tasks(version, tasks) for reference, version in versions.items()},
        dispatchers=dispatchers,
        reached=reached,
        priors=priors,
    )
    _check_prompts(prepared, bundle)
    digest = run_digest(
        spec,
        engine,
        {reference: z.digest for reference, z in experts.items()},
        tasks,
        splits,
        {name: stored.digest for name, stored in dispatchers.items()}
        | {f"searches.{name}.space.prior": prior.dispatcher.digest for name, prior in priors.items()},
    )
    return Ready(prepared, bundle, fits, Path(spec.storage).resolve() / f"{spec.name}-{digest[:12]}")


def _resolved(registry: ExpertRegistry, spec: EvaluateSpec, bundle: BaseBundle) -> dict[str, ExpertVersion]:
    versions: dict[str, ExpertVersion] = {}
    for reference in spec.experts:
        version = registry.resolve(reference, bundle.slug)
        if version.reference in versions:
            raise SpecError(f"experts name {version.reference} twice ({reference})", "name each version once")
        versions[version.reference] = version
    return versions


def _loaded(registry: ExpertRegistry, version: ExpertVersion, bundle: BaseBundle) -> ZVector:
    """Load an expert's z, which the run holds from then on: deleting the version does not disturb it."""
    z = registry.load(version)
    for what, own, other in (("base", z.base, bundle.fingerprint), ("factors", z.factors, bundle.factors_digest)):
        if own != other:
            raise WrongBase(
                f"expert {version.qualified} is of {what} {own[:12]}, this evaluation's {what} is {other[:12]}",
                "evaluate experts of one base together, each base in an evaluation of its own",
            )
    return z


def _own_tasks(version: ExpertVersion, tasks: Mapping[str, Task]) -> frozenset[str] | None:
    """Return the keys of the tasks that an expert was trained on; None if its provenance names none."""
    trained_on = version.provenance.task
    return frozenset(name for name, task in tasks.items() if task.name == trained_on) if trained_on else None


def _fitting(spec: EvaluateSpec, tasks: Mapping[str, Task], bundle: BaseBundle) -> dict[str, FitReport]:
    tokenizer, reader, longest = bundle.tokenizer(), bundle.image_reader(), spec.engine.longest(bundle.context)
    fits = {name: fit_prompts(task, tokenizer, longest, reader) for name, task in tasks.items()}
    for fit in fits.values():
        if fit.left_out:
            log.warning("%s", fit)
    return fits


def _dispatchers(
    registry: ExpertRegistry, spec: EvaluateSpec, bundle: BaseBundle, experts: Mapping[str, ZVector]
) -> tuple[dict[str, StoredDispatcher], dict[str, ZVector]]:
    """Load the registered dispatchers, and make the bare ones.

    Returns:
        Dispatchers by their names, and the z of experts that they ask or route to beside those of the spec.
    """
    dispatchers: dict[str, StoredDispatcher] = {}
    reached: dict[str, ZVector] = {}
    names = expert_names(experts)
    for name, dispatcher in spec.dispatchers.items():
        if dispatcher.registered is not None:
            stored = registry.load_dispatcher(registry.resolve(dispatcher.registered, bundle.slug))
            stored.check_base(bundle.fingerprint, bundle.factors_digest)
            found = {reference: registry.resolve(reference, bundle.slug) for reference in stored.document.experts}
            stored.check_experts({reference: version.z_digest for reference, version in found.items()})
            reached |= {reference: _loaded(registry, version, bundle) for reference, version in found.items()}
            dispatchers[name] = stored
            continue
        for label, expert in dispatcher.labels.items():
            if expert not in names:
                raise SpecError(
                    f"dispatchers.{name}.labels gives {label!r} to {expert!r}, which is no expert of this evaluation",
                    f"its experts: {', '.join(experts)}",
                )
        classifier = None
        if dispatcher.classifier is not None:
            version = registry.resolve(dispatcher.classifier, bundle.slug)
            classifier = (version.reference, _loaded(registry, version, bundle))
            reached |= dict([classifier])
        dispatchers[name] = bare_dispatcher(dispatcher, experts, names, classifier)
    return dispatchers, reached


def _check_prompts(prepared: Prepared, bundle: BaseBundle) -> None:
    """Refuse a prompt of the spec with which a text does not fit any more: ways are compared on the same texts.

    Raises:
        TaskError: Names the prompt and the sample.
    """
    tokenizer, reader = bundle.tokenizer(), bundle.image_reader()
    longest = prepared.spec.engine.longest(bundle.context)
    for prompt, (name, parts) in product(prepared.spec.prompts, prepared.splits.items()):
        task = prepared.tasks[name]
        for sample in (*parts.selection, *parts.test):
            asked = prepared.prompted(sample, prompt)
            length = prompt_length(task, tokenizer, asked, reader) + task.max_tokens
            if length > longest:
                raise TaskError(
                    f"with prompts.{prompt}, sample {sample.id} of task {name} does not fit: prompt and answer take "
                    f"{length} tokens, the limit is {longest}",
                    "shorten that prompt, leave out the long rows, or raise engine.max_length",
                )
