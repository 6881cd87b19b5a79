"""A job server that does not answer as it should, jobs that end badly, and a log whose connection is lost."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import ray
import typer
from ray.job_submission import JobDetails

from zfleet.errors import ClusterError, JobError, SpecError
from zfleet_cli.commands.jobs import follow_to_its_end
from zfleet_jobs.submit import follow as following
from zfleet_jobs.submit.follow import follow
from zfleet_jobs.submit.server import JobServer
from zfleet_jobs.submit.state import JobState


class _Dashboard(BaseHTTPRequestHandler):
    """Answers as the test says: {path: (status, body)}."""

    answers: ClassVar[dict[str, tuple[int, object]]]

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, "Job j does not exist"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode() if isinstance(body, str) else json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@contextmanager
def _listening(answers: dict[str, tuple[int, object]]) -> Iterator[str]:
    handler = type("Handler", (_Dashboard,), {"answers": answers})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


VERSION: dict[str, tuple[int, object]] = {
    "/api/version": (200, {"version": "4", "ray_version": ray.__version__, "ray_commit": ""})
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Ray's client would prefer it to the address that it is given.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")


def test_where_nothing_listens_the_dashboard_is_asked_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"nothing answers at http://{url}: .*refused") as refused:
            JobServer(url)
    assert "port 8265" in refused.value.remedy


def test_a_port_that_speaks_no_http_is_no_dashboard() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            # The settings frame of HTTP/2, which is how Ray's GCS on port 6379 begins.
            connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ClusterError, match="is no dashboard") as refused:
            JobServer(f"127.0.0.1:{listener.getsockname()[1]}")
    assert "not that of `ray.init` (port 6379)" in refused.value.remedy


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({}, "what answers at .* is no dashboard of Ray: status 404"),
        ({"/api/version": (200, "hello")}, "is no dashboard of Ray: status 200"),
        ({"/api/version": (200, {"ray_version": "2.9.0"})}, "runs Ray 2.9.0, but zfleet needs >=2"),
        ({"/api/version": (401, "Unauthorized")}, "wants another token"),
        ({"/api/version": (403, "Forbidden")}, "wants another token"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_server_is_said(answers: dict[str, tuple[int, object]], message: str) -> None:
    with _listening(answers) as url, pytest.raises(ClusterError, match=message):
        JobServer(url)


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "http://", "http://ann:hunter2@head:8265"])
def test_addresses_of_something_else_are_refused(address: str) -> None:
    with pytest.raises(SpecError, match="--address") as refused:
        JobServer(address)
    assert "hunter2" not in str(refused.value)


def test_a_job_that_the_cluster_does_not_know_is_named() -> None:
    with _listening(VERSION) as url:
        server = JobServer(url)
        for ask in (server.state, lambda job: asyncio.run(_all(server.log(job)))):
            with pytest.raises(JobError, match=f"the cluster at {url} knows no job 'j'") as refused:
                ask("j")
            assert f"zfleet jobs list --address {url}" in refused.value.remedy


async def _all(pieces: AsyncIterator[str]) -> list[str]:
    return [piece async for piece in pieces]


def test_an_error_of_the_server_is_told_in_words() -> None:
    failing = VERSION | {"/api/jobs/j": (500, "No available agent\nto answer")}
    message = r"does not do what it was asked: .*500: No available agent; to answer"
    with _listening(failing) as url, pytest.raises(ClusterError, match=message):
        JobServer(url).state("j")


SETUP_FAILED = """runtime_env setup failed: Failed to set up runtime environment.
Could not create the actor because its associated runtime env failed to be created.
Traceback (most recent call last):
  File "/usr/lib/ray/agent.py", line 3, in create
    raise RuntimeError()
RuntimeError: No space left on device
"""
COMMAND_FAILED = """Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):
Running entrypoint for job j: exec python
train flip: failed
error: reward f on sample 3 raised ValueError: no
remedy: correct the function
"""


def _details(**changes: Any) -> JobDetails:
    values = {"type": "SUBMISSION", "submission_id": "j", "status": "FAILED", "entrypoint": "", "driver_node_id": "n"}
    return JobDetails(**(values | changes))


def test_why_a_job_failed_stands_on_one_line() -> None:
    before = JobState.of(_details(message=SETUP_FAILED, driver_node_id=None))
    assert before.reason == (
        "runtime_env setup failed: Failed to set up runtime environment. Could not create the actor because its "
        "associated runtime env failed to be created. RuntimeError: No space left on device"
    )
    assert not before.started
    after = JobState.of(_details(message=COMMAND_FAILED, driver_exit_code=1))
    assert after.reason == (
        "Job entrypoint command failed with exit code 1: train flip: failed; error: reward f on sample 3 raised "
        "ValueError: no; remedy: correct the function"
    )
    assert len(JobState.of(_details(message="x" * 9999)).reason) < 700
    killed = JobState.of(_details(driver_exit_code=-9, start_time=0, metadata={"zfleet.kind": "train"}))
    assert (killed.exit_code, killed.kind, killed.submitted) == (137, "train", datetime.fromtimestamp(0, UTC))


class _Server:
    """Sends a log, and breaks connections: what cannot be had of a real one at an exact character."""

    address = "http://head:8265"

    def __init__(self, *connections: tuple[str, bool], end: JobDetails | None = None) -> None:
        self.connections = list(connections)
        self.end = end or _details(status="SUCCEEDED", driver_exit_code=0)

    async def log(self, job_id: str) -> AsyncIterator[str]:
        if not self.connections:
            raise ClusterError("gone")
        text, lost = self.connections.pop(0)
        for piece in text.split("|"):
            yield piece
        if lost:
            raise ClusterError("lost")

    def state(self, job_id: str) -> JobState:
        return JobState.of(_details(status="RUNNING") if self.connections else self.end)


def _follow(server: _Server) -> str:
    shown: list[str] = []
    state = follow(cast(JobServer, server), "j", shown.append)
    assert state.over
    return "".join(shown)


def test_no_piece_of_a_log_is_lost_or_shown_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_POLL_SECONDS", 0.0)
    assert _follow(_Server(("one\n|two\n", False))) == "one\ntwo\n"
    assert _follow(_Server(("one\n|tw", True), ("", True), ("one\ntwo\n|three\n", False))) == "one\ntwo\nthree\n"
    # A connection may end well before the job does.
    assert _follow(_Server(("one\n", False), ("o|ne\n|two", False))) == "one\ntwo"


def test_a_cluster_that_stays_away_ends_the_following(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(following, "LOST_SECONDS", 0.0)
    with pytest.raises(ClusterError, match=r"gone; it has not answered for .* whether job j goes on cannot be known"):
        _follow(_Server())


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (_details(status="STOPPED"), 143, "j was stopped; submitted again, it goes on"),
        (_details(driver_exit_code=1), 1, "j failed with exit code 1; the reason is in its log above"),
        (_details(driver_exit_code=2), 2, "failed with exit code 2"),
        (_details(driver_exit_code=127), 127, "the head node has no `python` on its PATH"),
        (_details(message=SETUP_FAILED, driver_node_id=None), 1, "error: j did not start: runtime_env setup failed"),
        (_details(message="Job supervisor actor died: x"), 1, "error: j failed: Job supervisor actor died: x"),
    ],
    ids=["stopped", "failed", "usage", "python", "setup", "died"],
)
def test_the_exit_code_is_the_jobs(end: JobDetails, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left:
        follow_to_its_end(cast(JobServer, _Server(("a\x1b[2Jb\tc\n", False), end=end)), "j")
    assert left.value.exit_code == code
    output = capsys.readouterr()
    assert output.out == "a\\x1b[2Jb\tc\n"
    assert said in output.err


def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "follow", interrupted)
    with pytest.raises(typer.Exit) as left:
        follow_to_its_end(cast(JobServer, _Server()), "j")
    assert left.value.exit_code == 130
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("j goes on: `zfleet jobs follow j --address http://head:8265` follows it again")


def test_a_python_that_lacks_something_says_all_of_it_before_any_import(tmp_path: Path) -> None:
    place = tmp_path / "zfleet-0.1.dist-info"
    place.mkdir()
    lines = ["Requires-Python: >=4", "Requires-Dist: no-such-thing>=2", "Requires-Dist: typer>=99"]
    extra = "Requires-Dist: pytest>=99; extra == 'dev'"
    (place / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", "Name: zfleet", "Version: 0.1", *lines, extra]))
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "zfleet_cli.on_cluster", "train", "job.yaml"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    error, remedy = done.stderr.splitlines()
    here = ".".join(map(str, sys.version_info[:3]))
    assert error.startswith(
        f"error: zfleet does not run in the cluster's Python, {sys.executable}: python>=4 ({here}), "
    )
    assert "no-such-thing>=2 (missing), typer>=99 (" in error
    assert "pytest" not in error
    assert remedy.startswith("remedy: start Ray on all nodes")
