"""The run of an evaluation in MLflow: metrics with their intervals, and the report with its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from zfleet.evaluate.matrix import Entry
from zfleet.evaluate.statistics.estimate import Estimate
from zfleet_jobs.evaluate.results import ABOUT_FILE, Results
from zfleet_jobs.run_folder.checkpoints import RUN_FILE
from zfleet_jobs.tracked import ending
from zfleet_registry import ExpertRegistry

EXPERIMENT = "evaluate"
"""The registry's experiment that holds all evaluations."""


def track(registry: ExpertRegistry, results: Results, report: Mapping[str, bytes]) -> str:
    """Log a finished evaluation as a run of MLflow, and return the run's id. Logged again, it stays the same run.

    Raises:
        RegistryError: It cannot be logged.
    """
    stored = results.run.get(RUN_FILE)
    if stored is not None and registry.reopen_run(known := str(json.loads(stored)["run"])):
        run = known
    else:
        run = registry.start_run(results.about.name, experiment=EXPERIMENT, params=_params(results))
        results.run.put(RUN_FILE, json.dumps({"run": run}).encode())
    with ending(registry, run):
        registry.log_metrics(run, metrics_of(results))
        about_file = {ABOUT_FILE: results.run.get(ABOUT_FILE) or b""}
        registry.log_files(run, {f"report/{name}": data for name, data in {**report, **about_file}.items()})
    return run


def _params(results: Results) -> dict[str, str]:
    about = results.about
    return {
        "base": f"{about.base}-{about.fingerprint[:8]}",
        "engine": about.engine,
        "experts": ", ".join(about.experts),
        "tasks": ", ".join(about.tasks),
        "shots": ", ".join(map(str, about.shots)),
        "draws": ", ".join(map(str, about.draws)),
        "seeds": ", ".join(map(str, about.seeds)),
        "folder": results.run.place,
    }


def metrics_of(results: Results) -> dict[str, float]:
    """Name every number of the matrix as a metric: ``TASK.WAY.accuracy``, with ``.low`` and ``.high``."""
    metrics: dict[str, float] = {}
    for entry in results.matrix.entries:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{entry.task}.{_way(entry)}")
        estimates = {"accuracy": entry.accuracy, "regret": entry.regret, "off_task": entry.off_task}
        if entry.over_base is not None:
            estimates["over_base"] = entry.over_base.difference
            metrics[f"{name}.over_base.p_corrected"] = entry.over_base.corrected
        for what, estimate in estimates.items():
            metrics |= _bounds(f"{name}.{what}", estimate)
        if entry.cost is not None:
            metrics |= {
                f"{name}.seconds": entry.cost.seconds,
                f"{name}.tokens": entry.cost.tokens,
                f"{name}.prompt_tokens": entry.cost.prompt_tokens,
            }
    return metrics


def _way(entry: Entry) -> str:
    return entry.way if entry.shots is None else f"{entry.way}.{entry.shots}"


def _bounds(name: str, estimate: Estimate | None) -> dict[str, float]:
    if estimate is None:
        return {}
    bounds = {name: estimate.mean, f"{name}.low": estimate.low, f"{name}.high": estimate.high}
    return {key: value for key, value in bounds.items() if value is not None}
