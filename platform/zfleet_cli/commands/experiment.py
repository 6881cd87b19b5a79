"""``zfleet compare`` and ``zfleet ablate``: ways to learn the same tasks, over several seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from zfleet.config.compare import AblateSpec, CompareSpec, learns_from_references
from zfleet.config.load import load_spec
from zfleet.errors import JobError
from zfleet_cli.dry_run import goes_on
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
    """Train SVF, LoRA and other baselines on the same prompts and rewards, and say who won."""
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
    if not goes_on(job, tasks, dry_run, as_json, tasks if learns_from_references(job) else ()):
        return
    from zfleet_jobs.compare.findings import findings, ratios
    from zfleet_jobs.compare.plot import plot
    from zfleet_jobs.compare.run import run_experiment
    from zfleet_jobs.run_folder.storage import Storage

    with results_alone():
        results = run_experiment(job, address)
    found = findings(results.finished)
    compared = ratios(results.finished, job.against) if isinstance(job, CompareSpec) else []
    storage, picture = Storage.at(job.storage), f"{job.kind}.png"
    # The picture comes last: where it cannot be written, what was found is told already.
    if as_json:
        _print_json(results, found, compared, f"{storage.place}/{picture}" if found else None)
    else:
        _print(results, found, compared)
    if found:
        storage.put(picture, plot(found, job.kind))
        typer.echo(f"picture: {storage.place}/{picture}", err=as_json)
    if results.failed:
        raise JobError(
            f"{len(results.failed)} of {len(results.failed) + len(results.finished)} trainings failed: "
            f"{', '.join(map(str, results.failed))}",
            "see above why; the same command tries only those again",
        )


def _print_json(results: Results, found: Sequence[Finding], compared: Sequence[Ratio], picture: str | None) -> None:
    """All but the reward of every prompt, which the files of the storage have."""
    trainings = [{key: value for key, value in asdict(one).items() if key != "rewards"} for one in results.finished]
    printed = {
        "trainings": trainings,
        "failed": [asdict(one) for one in results.failed],
        "findings": [asdict(one) for one in found],
        "ratios": [asdict(one) | {"verdict": one.verdict} for one in compared],
        "picture": picture,
    }
    typer.echo(json.dumps(printed, indent=2, allow_nan=False))


def _print(results: Results, found: Sequence[Finding], compared: Sequence[Ratio]) -> None:
    if found:
        title = f"{_measured(found)}; memory above what the process had before; seconds are of trainings side by side"
        print_rows([_line(one) for one in found], title)
    if compared:
        chance = "verdicts are at 95 % each: one in twenty may be chance"
        print_rows([_verdict(one) for one in compared], f"over {compared[0].against}, {_measured(compared)}; {chance}")
    if results.failed:
        print_rows(results.failed, "failed")


def _measured(found: Sequence[Finding] | Sequence[Ratio]) -> str:
    seeds = {one.seeds for one in found}
    covers = "mean" if seeds == {1} else "mean [95 % over seeds and prompts]"
    return f"held-out prompts: {_range(one.n for one in found)}, seeds: {_range(seeds)}, {covers}"


def _range(counts: Iterable[int]) -> str:
    different = sorted(set(counts))
    return str(different[0]) if len(different) == 1 else f"{different[0]} to {different[-1]}"


@dataclass(frozen=True)
class _Line:
    """One method on one task."""

    task: str
    method: str
    base: str
    accuracy: str
    mean_reward: str
    numbers: int
    seconds: str
    held_mib: str
    peak_mib: str


def _line(one: Finding) -> _Line:
    return _Line(
        one.task,
        one.method,
        f"{one.before:.3f}",
        str(one.accuracy),
        str(one.reward),
        one.parameters,
        f"{one.seconds:.1f}",
        f"{one.held_mib:.0f}",
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
    ratio = "none right" if one.ratio is None else str(one.ratio)
    return _Verdict(one.task, one.method, ratio, str(one.difference), f"{one.parameters:.1%}", one.verdict)
