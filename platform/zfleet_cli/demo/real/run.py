"""Run the stages of the demo on a pretrained model, in order."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from zfleet.config.compare import CompareSpec
from zfleet.config.generated import KIND
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import JobError
from zfleet.files import write_atomic
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.pages.page import Report
from zfleet.svf.zvector import ZVector
from zfleet_cli.demo.real.bench import Bench
from zfleet_cli.demo.real.measure import (
    exam_task,
    measure_classifier,
    measure_dispatch,
    measure_mixing,
    measure_trainings,
    measurements_of,
)
from zfleet_cli.demo.real.measured import Measured
from zfleet_cli.demo.real.plan import CLASSIFIER, EXAMS, LORA, SVF, Plan, compare_spec, planned_trials, search_settings
from zfleet_cli.demo.real.progress import MeasurementLines, ProgressLines
from zfleet_cli.demo.real.report import print_summary, write_report
from zfleet_cli.demo.stages import Stages
from zfleet_cluster import cluster
from zfleet_cluster.fleet.base import ship
from zfleet_jobs.code_version import code_version
from zfleet_jobs.compare.outcome import Outcome
from zfleet_jobs.compare.run import run_experiment
from zfleet_jobs.compare.stored import open_storage
from zfleet_jobs.search.mixtures import FoundMixture, search_mixtures
from zfleet_jobs.search.problem import SearchProblem, shots_of


@dataclass(frozen=True)
class _Trained:
    """What the trainings gave.

    Attributes:
        outcomes: Of all trainings.
        experts: The z of each task's expert.
        classifier: The z of the classifier.
    """

    outcomes: Sequence[Outcome]
    experts: Mapping[str, ZVector]
    classifier: ZVector


def run_real_demo(base: str, out: Path, plan: Plan, quick: bool = False) -> Report:
    """Train, search, measure, and write ``report.json``, plots and ``report.html`` into ``out``.

    What an earlier run finished is used again: trainings and searches by their settings, measurements by what they
    depend on. A run that was killed goes on from the trainings' newest checkpoints.

    Args:
        base: The name, folder or hub id of an instruction model.
        out: The folder of the report, of trainings and searches.
        plan: What to train and measure.
        quick: Whether the plan is too small for a judgement; the report says so.

    Returns:
        The report.

    Raises:
        BaseModelError: There is no such base.
        TaskError: The base's tokenizer has no chat template.
        JobError: A training or a search failed.
    """
    console = Console()
    stages = Stages(console)
    spec = compare_spec(plan, base, str(out / "trainings"))
    with stages.stage("base", f"open {base} and decompose its matrices, or find the factors in the cache"):
        bundle = pack_base(spec.base)
    # Not before: a base that there is not takes no time.
    console.print(
        f"About {plan.minutes} minutes on two cores. Ctrl-C stops it; the same command goes on.", highlight=False
    )
    with ExitStack() as stack:
        with stages.stage("ray", "start Ray on this machine"):
            stack.enter_context(cluster(None))
        with stages.stage("train", f"SVF and LoRA on {', '.join(plan.tasks)}; a classifier"):
            trained = _train(spec, console)
        with stages.stage("search", f"search mixtures on {plan.shots} shots of {' and of '.join(EXAMS)}"):
            found = _search(plan, bundle, trained.experts, out / "search")
    with stages.stage("measure", "grade experts, mixtures and dispatch on held-out prompts"):
        sections = _measure(plan, bundle, trained, found, out / "measured", console)
    learner = spec.learner
    report: Report = {
        "base": {"name": bundle.name, "fingerprint": bundle.fingerprint},
        "code": code_version(),
        "machine": {"cores": os.cpu_count()},
        "quick": quick,
        "settings": {
            "steps": plan.steps,
            "samples_per_step": learner.prompts_per_step * learner.samples_per_prompt,
            "svf_lr": learner.lr,
            "lora_lr": spec.methods[LORA].learner["lr"],
            "classifier_lr": spec.methods[CLASSIFIER].learner["lr"],
            "shots": plan.shots,
            "population": plan.population,
            "generations": plan.generations,
        },
        **sections,
    }
    with stages.stage("report", f"draw the plots and write {out}/report.html"):
        report["seconds"] = stages.with_total()
        write_report(report, out)
    report["seconds"] = stages.with_total()
    write_atomic(out / "report.json", json.dumps(report, indent=1).encode())
    print_summary(console, report, out)
    return report


def _train(spec: CompareSpec, console: Console) -> _Trained:
    results = run_experiment(spec, trials=planned_trials(spec), on_progress=ProgressLines(console))
    if results.failed:
        raise JobError(
            "; ".join(f"{failure} failed: {failure.reason}" for failure in results.failed),
            f"{results.failed[0].remedy}; the same command repeats only what failed",
        )
    storage = open_storage(spec)
    z = {
        outcome.task: ZVector.from_bytes(storage.get(outcome.z) or b"", f"{storage.place}/{outcome.z}")
        for outcome in results.finished
        if outcome.method in (SVF, CLASSIFIER) and outcome.z is not None
    }
    classifier = z.pop(KIND)
    return _Trained(results.finished, z, classifier)


def _search(
    plan: Plan, bundle: BaseBundle, experts: Mapping[str, ZVector], storage: Path
) -> dict[str, list[FoundMixture]]:
    """Search a mixture of the generated tasks' experts for each exam and draw, all in one Tune run."""
    members: dict[str, ZVector] = {name: experts[name] for name in plan.experts}
    problems = [
        SearchProblem(f"{exam}-{seed}", members, shots_of(exam_task(plan, exam), plan.shots, seed))
        for exam in EXAMS
        for seed in plan.draws
    ]
    found = search_mixtures(ship(bundle), problems, search_settings(plan), storage, "demo")
    each = len(plan.draws)
    return {exam: found[place * each : (place + 1) * each] for place, exam in enumerate(EXAMS)}


def _measure(
    plan: Plan,
    bundle: BaseBundle,
    trained: _Trained,
    found: Mapping[str, Sequence[FoundMixture]],
    folder: Path,
    console: Console,
) -> Report:
    bench = Bench(
        TorchEngine(bundle.open(), search_settings(plan).engine),
        bundle.tokenizer(),
        trained.experts,
        trained.classifier,
        Measured(folder, bundle.factors_digest),
        MeasurementLines(console, measurements_of(plan)),
    )
    try:
        return {
            "tasks": measure_trainings(plan, trained.outcomes),
            "classifier": measure_classifier(trained.outcomes),
            "dispatch": measure_dispatch(bench, plan),
            "mixing": measure_mixing(bench, plan, found),
        }
    finally:
        bench.close()
