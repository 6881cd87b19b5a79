"""``zfleet compare`` and ``zfleet ablate``: compare methods that learn the same tasks, over several seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from zfleet.config.compare import AblateSpec, CompareSpec, learns_from_references
from zfleet.config.load import load_spec
from zfleet.errors import JobError
from zfleet_cli.dry_run import check_job
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_rows, results_alone

if TYPE_CHECKING:
    from zfleet_jobs.compare.findings import Finding, Ratio
    from zfleet_jobs.compare.outcome import Results


def compare(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train SVF, LoRA and other baselines on the same prompts and rewards, and compare the results."""
    _experiment(load_spec(spec, CompareSpec, overrides or ()), address, dry_run, as_json)


def ablate(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train the paper's grid, targets x objective x parametrisation, and print its table."""
    _experiment(load_spec(spec, AblateSpec, overrides or ()), address, dry_run, as_json)


def _experiment(job: CompareSpec | AblateSpec, address: str | None, dry_run: bool, as_json: bool) -> None:
    tasks = list(job.tasks.values())
    if not check_job(job, tasks, dry_run, as_json, tasks if learns_from_references(job) else ()):
        return
    from zfleet_jobs.compare.findings import findings, ratios
    from zfleet_jobs.compare.plot import plot
    from zfleet_jobs.compare.run import run_experiment
    from zfleet_jobs.run_folder.storage import Storage

    with results_alone():
        results = run_experiment(job, address)
    results_by_method = findings(results.finished)
    comparisons = ratios(results.finished, job.against) if isinstance(job, CompareSpec) else []
    storage, picture = Storage.at(job.storage), f"{job.kind}.png"
    # The picture comes last: if it cannot be written, the results are printed already.
    if as_json:
        _print_json(
            results, results_by_method, comparisons, f"{storage.place}/{picture}" if results_by_method else None
        )
    else:
        _print(results, results_by_method, comparisons)
    if results_by_method:
        storage.put(picture, plot(results_by_method, job.kind))
        typer.echo(f"picture: {storage.place}/{picture}", err=as_json)
    if results.failed:
        raise JobError(
            f"{len(results.failed)} of {len(results.failed) + len(results.finished)} trainings failed: "
            f"{', '.join(map(str, results.failed))}",
            "the reasons are above; the same command repeats only the failed ones",
        )


def _print_json(
    results: Results, results_by_method: Sequence[Finding], comparisons: Sequence[Ratio], picture: str | None
) -> None:
    """Print all results except the reward of every prompt, which is in the files of the storage."""
    trainings = [{key: value for key, value in asdict(run).items() if key != "rewards"} for run in results.finished]
    printed = {
        "trainings": trainings,
        "failed": [asdict(run) for run in results.failed],
        "findings": [asdict(finding) for finding in results_by_method],
        "ratios": [asdict(ratio) | {"verdict": ratio.verdict} for ratio in comparisons],
        "picture": picture,
    }
    typer.echo(json.dumps(printed, indent=2, allow_nan=False))


def _print(results: Results, results_by_method: Sequence[Finding], comparisons: Sequence[Ratio]) -> None:
    if results_by_method:
        title = (
            f"{_sample_sizes(results_by_method)}; memory is that above the process's own; "
            "seconds are those of trainings side by side"
        )
        print_rows([_method_row(finding) for finding in results_by_method], title)
    if comparisons:
        chance = "verdicts are at 95 % each: one in twenty may be chance"
        title = f"over {comparisons[0].against}, {_sample_sizes(comparisons)}; {chance}"
        print_rows([_ratio_row(ratio) for ratio in comparisons], title)
    if results.failed:
        print_rows(results.failed, "failed")


def _sample_sizes(rows: Sequence[Finding] | Sequence[Ratio]) -> str:
    seeds = {row.seeds for row in rows}
    covers = "mean" if seeds == {1} else "mean [95 % over seeds and prompts]"
    return f"held-out prompts: {_range(row.n for row in rows)}, seeds: {_range(seeds)}, {covers}"


def _range(counts: Iterable[int]) -> str:
    distinct = sorted(set(counts))
    return str(distinct[0]) if len(distinct) == 1 else f"{distinct[0]} to {distinct[-1]}"


@dataclass(frozen=True)
class _MethodRow:
    """One method on one task, in the table."""

    task: str
    method: str
    base: str
    accuracy: str
    mean_reward: str
    numbers: int
    seconds: str
    held_mib: str
    peak_mib: str


def _method_row(finding: Finding) -> _MethodRow:
    return _MethodRow(
        finding.task,
        finding.method,
        f"{finding.before:.3f}",
        str(finding.accuracy),
        str(finding.reward),
        finding.parameters,
        f"{finding.seconds:.1f}",
        f"{finding.held_mib:.0f}",
        f"{finding.peak_mib:.0f}",
    )


@dataclass(frozen=True)
class _RatioRow:
    """One method compared with another, in the table."""

    task: str
    method: str
    ratio: str
    difference: str
    numbers: str
    verdict: str


def _ratio_row(ratio: Ratio) -> _RatioRow:
    text = "none right" if ratio.ratio is None else str(ratio.ratio)
    return _RatioRow(ratio.task, ratio.method, text, str(ratio.difference), f"{ratio.parameters:.1%}", ratio.verdict)
