"""``zfleet compare`` and ``zfleet ablate``: ways to learn the same tasks, over several seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from zfleet.config.compare import AblateSpec, CompareSpec
from zfleet.config.load import load_spec
from zfleet.files import write_atomic
from zfleet_cli.dry_run import check_on_base
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_rows, print_spec, results_alone

if TYPE_CHECKING:
    from zfleet_jobs.compare.findings import Finding, Ratio
    from zfleet_jobs.compare.trial import Outcome


def compare(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train SVF, LoRA and other baselines on the same prompts and rewards, and say who won."""
    job = load_spec(spec, CompareSpec, overrides or ())
    outcomes = _run(job, address, dry_run, as_json)
    if outcomes is None:
        return
    from zfleet_jobs.compare.findings import findings, ratios

    found, compared = findings(outcomes), ratios(outcomes, job.against)
    _print(job, "compare", outcomes, found, compared, as_json)


def ablate(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train the paper's grid, targets x objective x parametrisation, and print its table."""
    job = load_spec(spec, AblateSpec, overrides or ())
    outcomes = _run(job, address, dry_run, as_json)
    if outcomes is None:
        return
    from zfleet_jobs.compare.findings import findings

    _print(job, "ablate", outcomes, findings(outcomes), [], as_json)


def _run(job: CompareSpec | AblateSpec, address: str | None, dry_run: bool, as_json: bool) -> Sequence[Outcome] | None:
    from zfleet.tasks.build import build_task

    tasks = [build_task(task) for task in job.tasks.values()]
    if dry_run:
        check_on_base(job.base, job.engine, tasks)
        print_spec(job, as_json)
        return None
    from zfleet_jobs.compare.run import run_experiment

    with results_alone():
        return run_experiment(job, address)


def _print(
    job: CompareSpec | AblateSpec,
    name: str,
    outcomes: Sequence[Outcome],
    found: Sequence[Finding],
    compared: Sequence[Ratio],
    as_json: bool,
) -> None:
    from zfleet_jobs.compare.plot import plot

    picture = Path(job.storage) / f"{name}.png"
    write_atomic(picture, plot(found, name))
    if as_json:
        printed = {
            "trainings": [asdict(one) for one in outcomes],
            "findings": [asdict(one) for one in found],
            "ratios": [asdict(one) | {"verdict": one.verdict} for one in compared],
            "picture": str(picture),
        }
        typer.echo(json.dumps(printed, indent=2))
        return
    seeds = f"{len(job.seeds)} seeds, mean [95 %]"
    print_rows([_line(one) for one in found], f"accuracy on held-out prompts, {seeds}")
    if compared:
        print_rows([_verdict(one) for one in compared], f"over {compared[0].against}, seed by seed, mean [95 %]")
    typer.echo(f"picture: {picture}")


@dataclass(frozen=True)
class _Line:
    """One method on one task."""

    task: str
    method: str
    base: str
    accuracy: str
    numbers: int
    seconds: str
    peak_mib: str


def _line(one: Finding) -> _Line:
    return _Line(
        one.task,
        one.method,
        f"{one.before:.3f}",
        str(one.accuracy),
        one.parameters,
        f"{one.seconds:.1f}",
        f"{one.peak_mib:.0f}",
    )


@dataclass(frozen=True)
class _Verdict:
    """One method beside another."""

    task: str
    method: str
    ratio: str
    difference: str
    numbers: str
    verdict: str


def _verdict(one: Ratio) -> _Verdict:
    return _Verdict(one.task, one.method, str(one.ratio), str(one.difference), f"{one.parameters:.1%}", one.verdict)
