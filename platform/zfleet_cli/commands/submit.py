"""``zfleet submit``: send a job to a Ray cluster, where its driver runs too, and follow it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from zfleet.config.load import load_job
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import TrainSpec
from zfleet.config.transfer import TransferSpec
from zfleet.errors import SpecError
from zfleet_cli.commands.jobs import follow_to_its_end
from zfleet_cli.commands.train import named
from zfleet_cli.options import DASHBOARD, Dashboard, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_spec

if TYPE_CHECKING:
    from zfleet_jobs.submit.package import Submission

_KIB = 1024


def submit(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Dashboard = DASHBOARD,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's id and return, instead of following the job.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Run a job of kind train, search, evaluate, calibrate, compare or ablate on a Ray cluster, and follow it.

    The resolved spec, zfleet's code and the files that the spec names by relative paths are sent; absolute paths mean
    the cluster's own. Ctrl-C leaves the job running; `zfleet jobs` follows or stops it. The exit code is the job's.
    """
    job = load_job(spec, overrides or ())
    if isinstance(job, ServeSpec):
        raise SpecError(
            f"{spec} is of kind 'serve', a service that does not end", "run `zfleet serve SPEC --address HOST:6379`"
        )
    if isinstance(job, TransferSpec):
        raise SpecError(
            f"{spec} is of kind 'transfer', whose two bases are not sent",
            "run `zfleet transfer SPEC --address HOST:6379` from a machine that has both",
        )
    from zfleet_jobs.submit.package import prepare

    submission = prepare(named(job, spec) if isinstance(job, TrainSpec) else job)
    for note in submission.notes:
        _say(f"note: {note}")
    if dry_run:
        print_spec(submission.spec)
        _say(f"the job would run: {submission.entrypoint}")
        _say(_contents(submission))
        return
    from zfleet_jobs.submit.server import JobServer

    server = JobServer(address)
    job_id = server.submit(submission)
    _say(f"{job_id} at {server.address}: {_contents(submission)}")
    if no_wait:
        typer.echo(job_id)
        return
    sys.stderr.flush()
    follow_to_its_end(server, job_id)


def _contents(submission: Submission) -> str:
    """Say what is sent."""
    from zfleet_jobs.submit.files import size_of
    from zfleet_jobs.submit.names import RUN

    contents = "the spec, zfleet's code"
    if submission.files:
        contents += f", and {', '.join(submission.files)} ({size_of(submission.files) / _KIB:,.1f} KiB)"
    return f"{submission.spec.kind} {submission.metadata[RUN]}; sent: {contents}"


def _say(line: str) -> None:
    typer.echo(line, err=True)
