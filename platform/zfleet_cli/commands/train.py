"""``zfleet train``: train experts by SVF-RL, in one Ray Train run each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zfleet.config.load import load_spec
from zfleet.config.names import LONGEST
from zfleet.config.specs import TrainSpec
from zfleet.errors import SpecError
from zfleet_cli.dry_run import check_job
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, ResumableSpecFile, Resume
from zfleet_cli.output import print_rows, results_alone

if TYPE_CHECKING:
    from zfleet_jobs.train.plan import TrainedExpert


def train(
    spec: ResumableSpecFile = None,
    overrides: Overrides = None,
    resume: Resume = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train the experts of a spec and register them. A run name that was used before continues that run."""
    job = _job(spec, resume, overrides or ())
    supervised = [expert.task for expert in job.experts if job.learner_of(expert).objective == "supervised"]
    if not check_job(job, [expert.task for expert in job.experts], dry_run, as_json, supervised):
        return
    from zfleet_jobs.train.run import run_train

    with results_alone():
        trained = run_train(job, address)
    print_rows(trained if as_json else [_row(expert) for expert in trained], f"trained: {job.run}", as_json)


def _job(spec: Path | None, resume: str | None, overrides: Sequence[str]) -> TrainSpec:
    if resume is None:
        if spec is None:
            raise SpecError("neither a spec file nor --resume RUN is given", "give one of them")
        return named(load_spec(spec, TrainSpec, overrides), spec)
    from zfleet_jobs.run_folder.record import check_started, recorded_spec

    if spec is None:
        return recorded_spec(resume, overrides)
    job = load_spec(spec, TrainSpec, (*overrides, f"run={resume}"))
    check_started(job.storage, resume)
    return job


def named(job: TrainSpec, spec: Path) -> TrainSpec:
    """Name the run of a job after its spec file if the spec has no name, so that two specs do not share a run."""
    if "run" in job.model_fields_set:
        return job
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", spec.stem).lstrip("-._")[:LONGEST] or "train"
    return job.model_copy(update={"run": name})


@dataclass(frozen=True)
class _ExpertRow:
    """A trained expert in the table; ``--json`` prints the whole result."""

    expert: str
    numbers: int
    held_out: int
    accuracy: str
    mean_reward: str
    left_out: int
    seconds: str


def _row(expert: TrainedExpert) -> _ExpertRow:
    return _ExpertRow(
        expert.reference,
        expert.parameters,
        expert.n,
        f"{expert.accuracy_before:.3f} → {expert.accuracy_after:.3f}",
        f"{expert.reward_before:+.3f} → {expert.reward_after:+.3f}",
        expert.left_out,
        f"{expert.seconds:.0f}" if expert.seconds else "trained before",
    )
