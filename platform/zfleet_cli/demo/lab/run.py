"""Run the stages of the lab's demo, in order."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from zfleet.config.search import SearchSpec
from zfleet.config.specs import BaseSpec, ResourceSpec, TrainSpec
from zfleet.engine.open import check_engine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.files import write_atomic
from zfleet.models.base import Base
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.models.lab.build import LabRecipe, build_lab
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import lab_task
from zfleet_cli.demo.lab.bench import Bench
from zfleet_cli.demo.lab.measure import measure
from zfleet_cli.demo.lab.plan import (
    DRAWS,
    EXAMS,
    MIXTURE_EXAM,
    SHOTS,
    EngineKind,
    engine_spec,
    search_spec,
    serve_spec,
    train_spec,
)
from zfleet_cli.demo.lab.report import print_summary, write_report
from zfleet_cli.demo.lab.served import ask_service, free_port, print_usage
from zfleet_cli.demo.stages import Stages
from zfleet_cluster import cluster
from zfleet_cluster.fleet.actors import shared_fleet
from zfleet_cluster.fleet.base import ShippedBase, ship
from zfleet_jobs.code_version import code_version
from zfleet_jobs.search.mixtures import FoundMixture, search_mixtures
from zfleet_jobs.search.problem import SearchProblem, drawn, shots_of
from zfleet_jobs.search.register import register_mixture
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.train.run import run_train
from zfleet_registry import ExpertRegistry
from zfleet_serve.run import start_service


def run_demo(out: Path, keep: bool, kind: EngineKind = "torch") -> dict[str, Any]:
    """Run the whole loop and write ``report.json``, plots and ``report.html`` into ``out``.

    The base, its factors, and experts trained from the same spec are used again if they exist.

    Args:
        out: The folder of the report.
        keep: Keep the service running until Ctrl-C.
        kind: The engine of every part.

    Returns:
        The report.

    Raises:
        EngineError: The engine is not installed.
    """
    check_engine(engine_spec(kind))
    console = Console()
    stages = Stages(console)
    recipe = LabRecipe()
    with stages.stage(
        "base", f"build the lab base (seed {recipe.seed}, {recipe.steps} steps), or find it in the cache"
    ):
        build_lab(recipe)
    with ExitStack() as stack:
        with stages.stage("ray", "start Ray on this machine"):
            stack.enter_context(cluster(None))
        return _run_stages(out, keep, kind, console, stages, recipe)


def _run_stages(
    out: Path, keep: bool, kind: EngineKind, console: Console, stages: Stages, recipe: LabRecipe
) -> dict[str, Any]:
    registry = ExpertRegistry()
    with stages.stage("factors", "decompose its matrices, and describe base and factors to other processes"):
        bundle = pack_base(BaseSpec())
        shipped = ship(bundle)
    with stages.stage("train", "train experts by SVF-RL: one Ray Train run each"):
        trained = {expert.name: expert for expert in run_train(_named(train_spec(kind), bundle))}
        experts = {name: registry.load(registry.resolve(e.reference, bundle.slug)) for name, e in trained.items()}
    with stages.stage("search", f"search mixtures by the cross-entropy method: {len(EXAMS)} exams, {len(DRAWS)} draws"):
        spec = search_spec(tuple(trained[name].reference for name in EXAMS[MIXTURE_EXAM]), kind)
        problems = []
        for exam, members in EXAMS.items():
            for draw in DRAWS:
                task, selection = drawn(replace(lab_task(exam), test=()), SHOTS, spec.selection, draw)
                of = {name: experts[name] for name in members}
                problems.append(SearchProblem(f"{exam}-{draw}", of, task, selection))
        flat = search_mixtures(shipped, problems, SearchSettings.of(spec), Path(spec.storage), "demo")
        found = {exam: flat[i * len(DRAWS) : (i + 1) * len(DRAWS)] for i, exam in enumerate(EXAMS)}
        mixture = _register(registry, found[MIXTURE_EXAM][0], spec, experts, bundle)
    with stages.stage("measure", "grade base, experts, mixtures and dispatchers on held-out prompts"):
        parameters = {name: expert.parameters for name, expert in trained.items()}
        report: dict[str, Any] = {
            "base": {
                "name": bundle.name,
                "fingerprint": bundle.fingerprint,
                "seed": recipe.seed,
                "steps": recipe.steps,
            },
            "engine": kind,
            "code": code_version(),
            **_measure(bundle, shipped, kind, experts, parameters, found),
            "experts": {name: {"version": e.reference, "z_digest": e.z_digest} for name, e in trained.items()},
            "curves": {name: registry.curve(e.run_id, "reward") for name, e in trained.items()},
            "mixture": mixture,
        }
    with stages.stage("serve", "serve it with Ray Serve, and ask it through the OpenAI client"):
        service = start_service(serve_spec(free_port(), kind))
        try:
            report["served"] = ask_service(service.url, service.base)
        except BaseException:
            service.stop()
            raise
    try:
        if not keep:
            service.stop()
        with stages.stage("report", f"draw the plots and write {out}/report.html"):
            report["seconds"] = stages.with_total()
            write_report(report, out)
        report["seconds"] = stages.with_total()
        write_atomic(out / "report.json", json.dumps(report, indent=1).encode())
        print_summary(console, report, out)
        if keep:
            print_usage(console, service.url, service.base)
            threading.Event().wait()
    finally:
        if keep:
            service.stop()
    return report


def _named(spec: TrainSpec, bundle: BaseBundle) -> TrainSpec:
    """Name the run by its spec and factors, because a run can only be continued with the spec that started it."""
    digest = hashlib.sha256((spec.model_dump_json() + bundle.factors_digest).encode()).hexdigest()
    return spec.model_copy(update={"run": f"{spec.run}-{digest[:8]}"})


def _measure(
    bundle: BaseBundle,
    shipped: ShippedBase,
    kind: EngineKind,
    experts: Mapping[str, ZVector],
    parameters: Mapping[str, int],
    found: Mapping[str, Sequence[FoundMixture]],
) -> dict[str, Any]:
    """Measure every accuracy of the report, on an engine like that of training."""
    spec = engine_spec(kind)
    with shared_fleet(shipped, spec, ResourceSpec()) as pool:
        engine = TorchEngine(bundle.open(), spec) if pool is None else pool.engine()
        bench = Bench(engine, bundle.tokenizer(), experts)
        try:
            return measure(bench, parameters, found)
        finally:
            bench.close()


def _register(
    registry: ExpertRegistry,
    winner: FoundMixture,
    spec: SearchSpec,
    experts: Mapping[str, ZVector],
    base: Base | BaseBundle,
) -> str:
    """Register a mixture with its experts as parents, or find it if it is registered already; return its reference."""
    references = dict(zip(winner.alphas, spec.experts, strict=True))
    named = replace(winner, name=spec.name, alphas={references[name]: alpha for name, alpha in winner.alphas.items()})
    parents = {reference: experts[name] for name, reference in references.items()}
    shots = shots_of(lab_task(MIXTURE_EXAM), spec.shots, spec.shots_seed)
    return register_mixture(registry, named, shots, parents, base, spec.model_dump_json()).reference
