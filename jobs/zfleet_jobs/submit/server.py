"""Ray's job server, which the dashboard of a cluster brings: a thin client of it, whose errors name a remedy."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.metadata import requires
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import httpx
from packaging.requirements import Requirement
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient, JobType

from zfleet.errors import ClusterError, JobError, SpecError
from zfleet_cluster import on_one_line
from zfleet_jobs.submit.names import KIND, PROJECT
from zfleet_jobs.submit.state import JobState

if TYPE_CHECKING:
    # Only for types: it imports transformers and torch, which asking for the state of a job does not need.
    from zfleet_jobs.submit.package import Submission

_PROBE_SECONDS = 5
_PORT = 8265
_OVERRIDING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client prefers to the address that it is given."""

_STATUS = re.compile(r"status code (?P<code>\d+)")
"""In Ray's errors about an answer of the server."""

_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.authentication.http_token_authentication",
)
"""They log every upload and connection, and that there is no token, which the cluster's refusal says."""

_TOKEN_REMEDY = (
    "set RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or its file in RAY_AUTH_TOKEN_PATH "
    "(`ray get-auth-token` prints it on the head node)"
)


class JobServer:
    """The job server of a cluster.

    Attributes:
        address: The URL of the dashboard.
    """

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: The dashboard, ``http://HOST:8265``; https where a proxy offers it, http if nothing is said.

        Raises:
            ClusterError: No dashboard answers there, it wants another token, or its Ray is too old.
        """
        self.address = _url(address)
        _probe(self.address)
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._answering(), _without(_OVERRIDING):
            self._client = JobSubmissionClient(self.address)

    def submit(self, submission: Submission) -> str:
        """Send a job, and return its id. It starts as soon as the cluster has unpacked it.

        Raises:
            ClusterError, SpecError: The cluster cannot be reached, or a file cannot be read.
        """
        with submission.packed() as environment, self._answering():
            job_id: str = self._client.submit_job(
                entrypoint=submission.entrypoint, runtime_env=environment, metadata=submission.metadata
            )
        return job_id

    def state(self, job_id: str) -> JobState:
        """Return how a job is.

        Raises:
            JobError: The cluster knows no such job.
            ClusterError: It cannot be reached.
        """
        with self._answering(job_id):
            return JobState.of(self._client.get_job_info(job_id))

    def jobs(self) -> list[JobState]:
        """List zfleet's jobs that the cluster remembers, the newest first.

        Raises:
            ClusterError: The cluster cannot be reached.
        """
        with self._answering():
            found: list[JobDetails] = self._client.list_jobs()
        ours = [job for job in found if job.type is JobType.SUBMISSION and KIND in (job.metadata or {})]
        return [JobState.of(job) for job in sorted(ours, key=lambda job: -(job.start_time or 0))]

    def stop(self, job_id: str) -> bool:
        """Ask a job to end, and return at once. Ray sends SIGTERM, and SIGKILL after ``STOP_SECONDS``.

        Returns:
            Whether it was still there.

        Raises:
            JobError: The cluster knows no such job.
            ClusterError: It cannot be reached.
        """
        with self._answering(job_id):
            stopped: bool = self._client.stop_job(job_id)
        return stopped

    async def log(self, job_id: str) -> AsyncIterator[str]:
        """Yield a job's log in pieces, from its beginning, until the job has ended.

        Raises:
            JobError: The cluster knows no such job.
            ClusterError: The connection was lost.
        """
        with self._answering(job_id):
            async for text in self._client.tail_job_logs(job_id):
                yield text

    @contextmanager
    def _answering(self, job_id: str = "") -> Iterator[None]:
        """Turn the errors of Ray's client inside the block into ours.

        They are not chained: those of HTTP libraries hold the request with its token.
        """
        try:
            yield
        except AuthenticationError as error:
            raise _refused(self.address, on_one_line(error)) from None
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            code = error.status if isinstance(error, aiohttp.ClientResponseError) else _code_in(str(error))
            if code == httpx.codes.NOT_FOUND and job_id:
                raise JobError(
                    f"the cluster at {self.address} knows no job {job_id!r}",
                    f"`zfleet jobs list --address {self.address}` lists its jobs; a head node that was restarted has "
                    "forgotten those from before",
                ) from None
            if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise _refused(self.address, f"status {code}") from None
            raise ClusterError(
                f"the Ray cluster at {self.address} does not do what it was asked: {_short(on_one_line(error))}",
                "see that the head node is well (`ray status`, dashboard.log in Ray's logs there), and try again",
            ) from None


def _url(address: str) -> str:
    """Return the URL of a dashboard.

    Raises:
        SpecError: The address is not that of a dashboard.
    """
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or address in ("auto", "local") or not parts.hostname:
        raise SpecError(
            f"the address is {address!r}, but a job is submitted to the dashboard of a cluster",
            f"give its URL, --address http://HOST:{_PORT}, where HOST is the head node",
        )
    if parts.username is not None or parts.password is not None:
        raise SpecError("--address contains a user or a password, which Ray does not send", _TOKEN_REMEDY)
    return url.rstrip("/")


def _probe(url: str) -> None:
    """See that a dashboard answers, in seconds: Ray's client would wait for ever.

    Raises:
        ClusterError: Nothing answers, or something else does, or the cluster's Ray is too old.
    """
    usual = f"the dashboard usually listens on port {_PORT} of the head node"
    try:
        answer = httpx.get(f"{url}/api/version", timeout=_PROBE_SECONDS)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ClusterError(
            f"nothing answers at {url}: {error}",
            f"check --address and that the cluster runs with its dashboard; {usual} and by default on 127.0.0.1 alone: "
            "`ray start --head --dashboard-host=0.0.0.0`, or `kubectl port-forward`",
        ) from None
    except httpx.TransportError as error:
        raise ClusterError(
            f"what answers at {url} is no dashboard: {error or type(error).__name__}",
            f"give the dashboard's address, not that of `ray.init` (port 6379) or of Ray's clients (10001); {usual}",
        ) from None
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return  # Ray's client sends the token, the probe does not.
    try:
        version = str(answer.json()["ray_version"])
    except (ValueError, KeyError, TypeError):
        raise ClusterError(
            f"what answers at {url} is no dashboard of Ray: status {answer.status_code}",
            f"give the address of the dashboard alone, without a path; {usual}",
        ) from None
    (needed,) = (r for r in map(Requirement, requires(PROJECT) or ()) if r.name == "ray")
    if not needed.specifier.contains(version, prereleases=True):
        raise ClusterError(
            f"the cluster at {url} runs Ray {version}, but zfleet needs {needed.specifier}", "update Ray on its nodes"
        )


def _refused(address: str, reason: str) -> ClusterError:
    return ClusterError(f"the Ray cluster at {address} wants another token: {reason}", _TOKEN_REMEDY)


def _code_in(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found["code"]) if found else None


def _short(text: str, most: int = 500) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Unset environment variables inside the block."""
    values = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)
