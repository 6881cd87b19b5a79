"""``zfleet transfer``: what the experts of one base are worth on another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from zfleet.config.load import load_spec
from zfleet.config.transfer import TransferSpec
from zfleet_cli.dry_run import check_job
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_fields, print_rows, results_alone

if TYPE_CHECKING:
    from zfleet_jobs.transfer.findings import Finding
    from zfleet_jobs.transfer.run import TransferResult


def transfer(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Measure experts on another base of the same architecture: values in order, shuffled, and searched again.

    An expert is one of another base only here, where it is asked for; with `register_ordered: true` it is registered.
    """
    job = load_spec(spec, TransferSpec, overrides or ())
    if dry_run:
        from zfleet_jobs.transfer.bases import both_here, check_bases

        if both_here(job):
            check_bases(job)
        else:
            typer.echo("matrices: compared when both bases have been built or fetched", err=True)
    if not check_job(job, [job.task], dry_run, as_json):
        return
    from zfleet_jobs.transfer.run import run_transfer

    with results_alone():
        result = run_transfer(job, address)
    if as_json:
        print_rows([result], "", as_json)
    else:
        _print(result)


def _print(result: TransferResult) -> None:
    prompts = result.findings[0].n
    title = f"experts of {result.origin} on {result.base}: {result.task}, {prompts} prompts [95 %, paired by prompt]"
    print_rows([_row(one) for one in result.findings], title)
    more = {"searched": result.alphas, "registered": [f"{result.base}.{one}" for one in result.registered]}
    if any(more.values()):
        print_fields(more, "")


@dataclass(frozen=True)
class FindingRow:
    """One z in the table."""

    way: str
    expert: str
    accuracy: str
    over_base: str
    over_shuffled: str


def _row(finding: Finding) -> FindingRow:
    return FindingRow(
        finding.way,
        finding.expert or "-",
        str(finding.accuracy),
        "-" if finding.over_base is None else str(finding.over_base),
        "-" if finding.over_shuffled is None else str(finding.over_shuffled),
    )
