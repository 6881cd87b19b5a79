"""Evidence for a gate: from a finished evaluation, or from one that is run for it."""

from __future__ import annotations

import json
from pathlib import Path

from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.load import load_spec
from zfleet.evaluate.evidence import Evidence, evidence_of
from zfleet_jobs.evaluate.results import Results, read_results
from zfleet_jobs.evaluate.run import run_evaluate
from zfleet_jobs.run_folder.checkpoints import RUN_FILE
from zfleet_jobs.run_folder.storage import Storage
from zfleet_registry import ExpertVersion


def stored_evidence(folder: str, candidate: ExpertVersion, present: ExpertVersion | None) -> Evidence:
    """Read what a finished evaluation shows of two versions.

    Args:
        folder: The folder that `zfleet evaluate` printed.
        candidate: The version to promote.
        present: The version in place; None: the base.

    Raises:
        SamplesError: There is no finished evaluation in this folder, or a file of it is damaged.
        SpecError: It did not measure one of the versions.
    """
    run = Storage.at(folder)
    results = read_results(run)
    tracked = run.get(RUN_FILE)
    return _evidence(results, "" if tracked is None else str(json.loads(tracked)["run"]), candidate, present)


def measured_evidence(
    spec: Path, registry: str | None, candidate: ExpertVersion, present: ExpertVersion | None
) -> Evidence:
    """Evaluate two versions, and return what that shows. What was answered before is not answered again.

    Args:
        spec: The spec of an evaluation; its `experts` and `registry` are replaced.
        registry: The URI of the registry.
        candidate: The version to promote.
        present: The version in place; None: the base.

    Raises:
        ZfleetError: As ``run_evaluate``.
    """
    experts = [version.qualified for version in (candidate, present) if version is not None]
    job = load_spec(spec, EvaluateSpec, [f"experts={json.dumps(experts)}", f"registry={json.dumps(registry)}"])
    evaluated = run_evaluate(job)
    return _evidence(evaluated.results, evaluated.run_id, candidate, present)


def _evidence(results: Results, run_id: str, candidate: ExpertVersion, present: ExpertVersion | None) -> Evidence:
    digest = "" if present is None else present.z_digest
    return evidence_of(results.about, results.cells, run_id, candidate.z_digest, digest)
