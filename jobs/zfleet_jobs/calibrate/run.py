"""``zfleet calibrate``: from a spec to a registered dispatcher."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from zfleet.adapt.calibrate import Wanted, calibrated
from zfleet.adapt.calibration import Facts
from zfleet.adapt.contract import Render
from zfleet.adapt.document import DispatcherDocument
from zfleet.adapt.examples import Examples
from zfleet.adapt.measure import Measured, decide_all
from zfleet.adapt.nearest import hidden_states
from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.calibrate import CalibrateSpec, StepKind
from zfleet.config.names import CHAMPION
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.choose import resolve_engine
from zfleet.engine.open import check_engine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import WrongBase
from zfleet.memory.jobs import planned
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import fit_prompts
from zfleet.tasks.template import PromptTemplate
from zfleet_cluster import cluster
from zfleet_cluster.fleet.actors import actor_fleet
from zfleet_cluster.fleet.base import ship
from zfleet_jobs.calibrate.data import CalibrationData
from zfleet_jobs.code_version import code_version
from zfleet_jobs.recorded_spec import check_recordable, recorded
from zfleet_jobs.tracked import ending
from zfleet_registry import ExpertRegistry, ExpertVersion
from zfleet_registry.provenance import Provenance

EXPERIMENT = "calibrate"
"""The registry's experiment that holds all calibrations."""
ASKING = ("prompt", "classifier", "soft")
"""The kinds that put a question."""


@dataclass(frozen=True)
class CalibrateResult:
    """A calibrated dispatcher and what was measured of it.

    Attributes:
        reference: The registered dispatcher, such as ``router/1``.
        kind: Of the dispatcher.
        labels: Those of a dispatcher that looks at prompts, or the tasks of one that does not.
        thresholds: The least confidence at which each step decides; None: it never does.
        facts: What calibration found; None if nothing was calibrated.
        measured: On held-out prompts that calibrated nothing, of the labels in the spec; None without labels.
        left_out: Prompts that do not fit the engine.
        seconds: Of examples, calibration and measurement.
    """

    reference: str
    kind: str
    labels: tuple[str, ...]
    thresholds: tuple[float | None, ...]
    facts: Facts | None
    measured: Measured | None
    left_out: int
    seconds: float


def run_calibrate(spec: CalibrateSpec, address: str | None = None) -> CalibrateResult:
    """Calibrate the spec's dispatcher, measure it, and register it as the champion of its name.

    The same calibration again is not registered again.

    Args:
        spec: The job.
        address: A running Ray cluster, on which the engine runs; by default it runs in this process, or for vLLM on a
            cluster that is started on this machine.

    Raises:
        ExpertNotFound, RegistryUnreachable: An expert cannot be loaded.
        SpecError, TaskError, BaseModelError, EngineError: The spec names something that cannot be used.
        WrongBase: An expert was trained on another base, or on other factors.
        DispatcherError: The prompts or the labels cannot be used.
    """
    check_recordable(spec)
    registry = ExpertRegistry(spec.registry)
    registry.check_experiments(EXPERIMENT)
    check_engine(spec.engine)
    spec = resolve_engine(spec)
    bundle = pack_base(spec.base)
    experts = _experts(registry, spec, bundle)
    tokenizer = bundle.tokenizer()
    fits = [
        fit_prompts(build_task(label.task), tokenizer, spec.engine.longest(bundle.context), bundle.image_reader())
        for label in spec.labels.values()
    ]
    data = CalibrationData.of(
        dict(zip(spec.labels, (fit.task for fit in fits), strict=True)), spec.examples, spec.prompts
    )
    extended = None if spec.extend is None else _extended(registry, spec.extend, bundle)
    planned(spec, bundle.model, fits)
    template = PromptTemplate()

    def render(prompt: str) -> tuple[int, ...]:
        return template.render(tokenizer, prompt)

    started = time.perf_counter()
    with _engine(spec, bundle, address) as engine:
        if spec.classifier is not None:
            engine.put_z(registry.load(experts[spec.classifier]))
        if extended is not None:
            stored = _with_labels(extended, spec, engine, render, experts, data)
        else:
            stored = _calibrated(_document(spec, bundle, experts), spec, engine, render, data)
        measured = None
        if data.test:
            decisions = engine.run(decide_all(stored.open(render), engine.engine, [one.prompt for one in data.test]))
            measured = Measured.of(data.test, decisions)
    seconds = time.perf_counter() - started
    version = _registered(registry, spec, stored, measured, bundle)
    document = stored.document
    return CalibrateResult(
        reference=version.reference,
        kind=document.kind,
        labels=tuple(document.routes) or tuple(document.tasks),
        thresholds=tuple(step.calibration.threshold for step in document.steps if step.kind != "few_shot"),
        facts=document.facts if spec.extend is None else None,
        measured=measured,
        left_out=sum(len(fit.left_out) for fit in fits),
        seconds=seconds,
    )


def _experts(registry: ExpertRegistry, spec: CalibrateSpec, bundle: BaseBundle) -> dict[str, ExpertVersion]:
    """Find every expert that the spec names, as it is named there, and check its file."""
    named = [label.expert for label in spec.labels.values()] + list(spec.tasks.values()) + [spec.classifier]
    found: dict[str, ExpertVersion] = {}
    for reference in named:
        if reference is None or reference in found:
            continue
        version = registry.resolve(reference, bundle.slug)
        z = registry.load(version)
        if z.factors != bundle.factors_digest:
            raise WrongBase(
                f"{version.qualified} was trained on factors {z.factors[:12]}, not on {bundle.factors_digest[:12]}",
                "set base.targets to those of the expert, or name an expert of this base",
            )
        found[reference] = version
    return found


def _extended(registry: ExpertRegistry, reference: str, bundle: BaseBundle) -> StoredDispatcher:
    stored = registry.load_dispatcher(registry.resolve(reference, bundle.slug))
    stored.check_base(bundle.fingerprint, bundle.factors_digest)
    found = {name: registry.resolve(name, bundle.slug).z_digest for name in stored.document.experts}
    stored.check_experts(found)
    return stored


def _document(spec: CalibrateSpec, bundle: BaseBundle, experts: Mapping[str, ExpertVersion]) -> DispatcherDocument:
    """Describe the dispatcher, before calibration."""
    asks = None if spec.classifier is None else experts[spec.classifier].reference
    compares = spec.examples > 0 and spec.kinds != ("few_shot",)

    def step(kind: StepKind) -> dict[str, object]:
        asking = kind in ASKING
        return {
            "kind": kind,
            "asks": asks if kind in ("classifier", "soft") else None,
            "question": spec.question if asking else None,
            "compares": kind == "nearest" or (asking and compares),
        }

    return DispatcherDocument.model_validate(
        {
            "base": bundle.fingerprint,
            "factors": bundle.factors_digest,
            "experts": {version.reference: version.z_digest for version in experts.values()},
            "routes": {label: _mixture(one.expert, experts) for label, one in spec.labels.items()},
            "tasks": {task: _mixture(expert, experts) for task, expert in spec.tasks.items()},
            "steps": [step(kind) for kind in spec.kinds],
            "example_labels": tuple(spec.labels) if compares else (),
        }
    )


def _mixture(expert: str | None, experts: Mapping[str, ExpertVersion]) -> dict[str, float]:
    return {} if expert is None else {experts[expert].reference: 1.0}


def _calibrated(
    document: DispatcherDocument, spec: CalibrateSpec, engine: SyncEngine, render: Render, data: CalibrationData
) -> StoredDispatcher:
    examples = None
    if document.example_labels:
        states = {
            label: engine.run(hidden_states(engine.engine, render, prompts)) for label, prompts in data.examples.items()
        }
        examples = Examples.from_states(states)
    stored = StoredDispatcher(document, examples)
    steps = stored.scoring(render)
    if not steps:
        return stored
    wanted = Wanted(spec.risk, spec.certainty)
    return stored.with_calibration(*engine.run(calibrated(steps, engine.engine, data.validation, wanted)))


def _with_labels(
    stored: StoredDispatcher,
    spec: CalibrateSpec,
    engine: SyncEngine,
    render: Render,
    experts: Mapping[str, ExpertVersion],
    data: CalibrationData,
) -> StoredDispatcher:
    for label, one in spec.labels.items():
        states = engine.run(hidden_states(engine.engine, render, data.examples[label]))
        known = {} if one.expert is None else {experts[one.expert].reference: experts[one.expert].z_digest}
        stored = stored.with_label(label, _mixture(one.expert, experts), known, states)
    return stored


@contextmanager
def _engine(spec: CalibrateSpec, bundle: BaseBundle, address: str | None) -> Iterator[SyncEngine]:
    """Open the engine inside the block: in this process, or on a cluster."""
    if spec.engine.kind == "torch" and address is None:
        torch.set_num_threads(spec.resources.torch_threads)
        with SyncEngine(TorchEngine(bundle.open(), spec.engine)) as engine:
            yield engine
        return
    with (
        cluster(address),
        actor_fleet(ship(bundle), spec.engine, spec.resources, spec.engine.vllm.members) as fleet,
        SyncEngine(fleet.engine()) as engine,
    ):
        yield engine


def _registered(
    registry: ExpertRegistry,
    spec: CalibrateSpec,
    stored: StoredDispatcher,
    measured: Measured | None,
    bundle: BaseBundle,
) -> ExpertVersion:
    """Register the dispatcher as the champion of its name, or find the version that is the same."""
    for version in reversed(registry.list(bundle.slug)):
        if version.name == spec.name and version.provenance.dispatcher_digest == stored.digest:
            registry.load_dispatcher(version)
            return version
    values = {} if measured is None else vars(measured)
    metrics = {key: float(value) for key, value in values.items() if value is not None}
    provenance = Provenance.of_dispatcher(
        stored, spec=recorded(spec).model_dump_json(), code_version=code_version(), metrics=metrics
    )
    run = registry.start_run(spec.name, experiment=EXPERIMENT, params={"dispatcher": stored.document.kind})
    with ending(registry, run):
        registry.log_metrics(run, metrics)
        version = registry.register(spec.name, stored, provenance, base_name=bundle.name, run_id=run)
        return registry.offer(version, CHAMPION)
