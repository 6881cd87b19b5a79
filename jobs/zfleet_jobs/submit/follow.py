"""Follow a job's log until the job ends; a lost connection is made again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from zfleet.errors import ClusterError
from zfleet_jobs.submit.server import JobServer
from zfleet_jobs.submit.state import JobState

LOST_SECONDS = 60
"""How long the cluster may be out of reach."""

_POLL_SECONDS = 1.0


def follow(server: JobServer, job_id: str, show: Callable[[str], None]) -> JobState:
    """Show a job's log from its beginning, as it is written, and return how the job ended.

    Args:
        server: The cluster.
        job_id: The job.
        show: Called with the pieces of the log, in order; no piece comes twice.

    Raises:
        JobError: The cluster knows no such job.
        ClusterError: It cannot be reached for a minute.
        KeyboardInterrupt: Ctrl-C; the job is left alone.
    """
    return asyncio.run(_follow(server, job_id, show))


async def _follow(server: JobServer, job_id: str, show: Callable[[str], None]) -> JobState:
    shown, answered = 0, time.monotonic()
    while True:
        try:
            passed = 0
            async for text in server.log(job_id):
                answered = time.monotonic()
                # Ray sends the log from its beginning; after a lost connection, part of it was shown before.
                new = text[max(0, shown - passed) :]
                passed += len(text)
                if new:
                    show(new)
                    shown = passed
            state = server.state(job_id)
        except ClusterError as error:
            if time.monotonic() - answered > LOST_SECONDS:
                raise ClusterError(
                    f"{error.message}; it has not answered for {LOST_SECONDS} s, and whether job {job_id} goes on "
                    "cannot be known",
                    error.remedy,
                ) from error
        else:
            answered = time.monotonic()
            if state.over:
                return state
        await asyncio.sleep(_POLL_SECONDS)


def wait_until_over(server: JobServer, job_id: str, seconds: float) -> JobState:
    """Wait until a job has ended, so many seconds at most, and return how it is.

    Raises:
        JobError, ClusterError: As ``JobServer.state``.
    """
    deadline = time.monotonic() + seconds
    while not (state := server.state(job_id)).over and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return state
