"""``zfleet jobs``: jobs that ``zfleet submit`` sent to a Ray cluster."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from zfleet_cli.options import DASHBOARD, AsJson, Dashboard, JobId
from zfleet_cli.output import print_fields, print_rows
from zfleet_cli.untrusted import shown_log

if TYPE_CHECKING:
    from zfleet_jobs.submit.server import JobServer
    from zfleet_jobs.submit.state import JobState

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C, and of a job that was stopped: by convention 128 and the signal's number."""

_COMMAND_NOT_FOUND = 127
_GRACE_SECONDS = 15
"""Beyond the time that a job has to end by itself."""

app = typer.Typer(no_args_is_help=True, help="Jobs that were sent to a Ray cluster by `zfleet submit`.")


@dataclass(frozen=True)
class _JobRow:
    """A job in the list."""

    id: str
    status: str
    kind: str
    run: str
    submitted: str
    ended: str


@app.command("list")
def list_(address: Dashboard = DASHBOARD, as_json: AsJson = False) -> None:
    """List the cluster's jobs, the newest first. A head node that restarts forgets them."""
    jobs = _server(address).jobs()
    if as_json:
        print_rows(jobs, "jobs", as_json)
        return
    print_rows([_row(job) for job in jobs], "jobs")


@app.command()
def status(job_id: JobId, address: Dashboard = DASHBOARD, as_json: AsJson = False) -> None:
    """Show how a job is, and why it failed."""
    state = _server(address).state(job_id)
    if as_json:
        typer.echo(json.dumps(asdict(state), indent=2, default=str))
        return
    times = {"submitted": _local(state.submitted), "ended": _local(state.ended)}
    print_fields({key: value for key, value in asdict(state).items() if key not in ("id", "started")} | times, job_id)


@app.command()
def follow(job_id: JobId, address: Dashboard = DASHBOARD) -> None:
    """Print a job's log from its beginning and go on until the job ends. The exit code is the job's."""
    follow_to_its_end(_server(address), job_id)


@app.command()
def stop(job_id: JobId, address: Dashboard = DASHBOARD) -> None:
    """Stop a job and wait until it has ended. If it is submitted again, it goes on from its newest checkpoint."""
    from zfleet_jobs.submit.follow import wait_until_over
    from zfleet_jobs.submit.names import STOP_SECONDS

    server = _server(address)
    before = server.state(job_id)
    if before.over:
        typer.echo(f"{job_id} had ended: {before.status}")
        return
    server.stop(job_id)
    state = wait_until_over(server, job_id, STOP_SECONDS + _GRACE_SECONDS)
    typer.echo(f"{job_id}: {state.status}" + ("" if state.over else ", asked to stop"))


def follow_to_its_end(server: JobServer, job_id: str) -> None:
    """Print a job's log until the job ends, and exit as the job did.

    Raises:
        Exit: With the job's exit code, if that is not 0; 143 if it was stopped; 130 after Ctrl-C, which leaves the job
            running.
        JobError, ClusterError: As ``follow`` of ``zfleet_jobs.submit.follow``.
    """
    from zfleet_jobs.submit.follow import follow

    try:
        state = follow(server, job_id, lambda text: typer.echo(shown_log(text), nl=False))
    except KeyboardInterrupt:
        at = f"{job_id} --address {server.address}"
        _say(f"\n{job_id} goes on: `zfleet jobs follow {at}` follows it again; `status` and `stop` do as they say")
        raise typer.Exit(INTERRUPTED) from None
    if state.status == "SUCCEEDED":
        return
    _say(_end(state))
    raise typer.Exit(TERMINATED if state.status == "STOPPED" else state.exit_code or 1)


def _end(state: JobState) -> str:
    """Say how a job ended that did not succeed."""
    if state.status == "STOPPED":
        return f"{state.id} was stopped; submitted again, it goes on from its newest checkpoint"
    if not state.started:
        return (
            f"error: {state.id} did not start: {shown_log(state.reason)}\n"
            f"remedy: see job-driver-{state.id}.log and runtime_env_*.log in Ray's logs on the head node "
            "(/tmp/ray/session_latest/logs)"
        )
    if state.exit_code == _COMMAND_NOT_FOUND:
        return (
            f"error: {state.id} did not start: the head node has no `python` on its PATH\n"
            "remedy: start Ray there in an environment with zfleet's dependencies (`. .venv/bin/activate`)"
        )
    if state.exit_code is None:
        return f"error: {state.id} failed: {shown_log(state.reason)}\nremedy: see its log above, and `ray status`"
    return f"{state.id} failed with exit code {state.exit_code}; the reason is in its log above"


def _server(address: str) -> JobServer:
    from zfleet_jobs.submit.server import JobServer

    return JobServer(address)


def _row(job: JobState) -> _JobRow:
    return _JobRow(job.id, job.status, job.kind, job.run, _local(job.submitted), _local(job.ended))


def _local(time: datetime | None) -> str:
    return "" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _say(line: str) -> None:
    typer.echo(line, err=True)
