"""How a submitted job is: what Ray's job server says of it, in the words of zfleet's users."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ray.job_submission import JobDetails, JobStatus

from zfleet_cluster.errors import join_lines
from zfleet_cluster.sent_code import CODE_VERSION
from zfleet_jobs.submit.names import KIND, RUN

_LAST_LINES = 3
_LONGEST_REASON = 600
_LOG_FOLLOWS = "last available logs"
"""In Ray's message about a job that failed: its last lines come after this."""
_COMMAND = "Running entrypoint for job"
"""Ray's own line in the log."""


@dataclass(frozen=True)
class JobState:
    """A submitted job.

    Attributes:
        id: Its id on the cluster.
        status: Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        kind: Of its spec: train, search, compare, ablate. Empty if zfleet did not submit it.
        run: The run or the mixture that it makes.
        code: The version of the code that was sent.
        submitted: When it was submitted.
        ended: When it ended.
        exit_code: Of its command, by the convention of shells: 128 and the signal's number if a signal ended it. None
            if it has not ended or never began.
        reason: Why it failed, on one line.
        started: Whether its command has begun, so that its log is the command's.
    """

    id: str
    status: str
    kind: str
    run: str
    code: str
    submitted: datetime | None
    ended: datetime | None
    exit_code: int | None
    reason: str
    started: bool

    @classmethod
    def of(cls, job: JobDetails) -> JobState:
        """Read the job server's answer."""
        metadata = job.metadata or {}
        code = job.driver_exit_code
        return cls(
            id=job.submission_id or job.job_id or "",
            status=str(job.status),
            kind=metadata.get(KIND, ""),
            run=metadata.get(RUN, ""),
            code=metadata.get(CODE_VERSION, ""),
            submitted=_time(job.start_time),
            ended=_time(job.end_time),
            exit_code=128 - code if code is not None and code < 0 else code,
            reason=_reason(job.message or "") if job.status == JobStatus.FAILED else "",
            started=job.driver_node_id is not None,
        )

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return JobStatus(self.status).is_terminal()


def _time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _reason(message: str) -> str:
    """Shorten Ray's message: to the last lines of the job's log, or without the lines of a traceback."""
    before, _, log = message.partition(_LOG_FOLLOWS)
    if log:
        lines = [line for line in log.splitlines()[1:] if line.strip() and not line.startswith(_COMMAND)]
        last = lines[-_LAST_LINES:]
        return _short(join_lines([f"{before.rstrip(' ,')}:", *last]))
    return _short(join_lines(_without_traceback(message.splitlines())))


def _without_traceback(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if not line.startswith((" ", "\t", "Traceback"))]


def _short(text: str) -> str:
    half = _LONGEST_REASON // 2
    return text if len(text) <= _LONGEST_REASON else f"{text[:half]} ... {text[-half:]}"
