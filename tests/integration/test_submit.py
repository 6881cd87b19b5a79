"""Jobs that are submitted to the dashboard of a real head node, which asks for a token.

A cluster of its own: the job server is a part of the dashboard, which the other tests' cluster does not start, and a
process keeps the mode of tokens that Ray began with. Commands of their own: for that, their signals and exit codes.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from zfleet.config.load import dump_spec
from zfleet.config.specs import TrainSpec
from zfleet_jobs.code_version import code_version
from zfleet_jobs.testing.training import CALLS_FROM_STEP_5, GRADERS, IN_STEP_5, Place, python, training_place

BIN = Path(sys.executable).parent
ZFLEET = str(BIN / "zfleet")
TOKEN = secrets.token_hex(16)
GRADERS_TO_SEND = f"""
def sent(completion, sample):
    (ROOT / "imported").write_text(__file__)
    return _grade(completion)


def held(completion, sample):
    if _at("held", {IN_STEP_5}):
        time.sleep(300)
    return _grade(completion)


def resumed(completion, sample):
    if _at("resumed", {IN_STEP_5}):
        time.sleep(300)
    return _grade(completion)


def raising(completion, sample):
    raise ValueError("no grade for this")
"""


@dataclass(frozen=True)
class Head:
    """A head node.

    Attributes:
        url: Of its dashboard.
        gcs: Where Ray's own processes connect.
        process: What runs it.
        environment: In which a command has its token.
    """

    url: str
    gcs: str
    process: psutil.Process
    environment: dict[str, str]

    def zfleet(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the command with this cluster's address."""
        return subprocess.run(
            [ZFLEET, *arguments, "--address", self.url],
            env=self.environment | changes,
            capture_output=True,
            text=True,
            check=False,
        )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    # Not pytest's folder: paths of Ray's sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="zf-", dir="/tmp"))
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")} | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_worker_niceness": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "ZFLEET_CACHE": str(tmp_path_factory.mktemp("cache")),
        "NO_PROXY": "127.0.0.1",
    }
    dashboard, gcs = _free_port(), _free_port()
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": _free_port(),
        "node-ip-address": "127.0.0.1",
        "num-cpus": 4,
        "object-store-memory": 200_000_000,
        "temp-dir": folder,
    }
    log = (folder / "start.log").open("w")
    process = subprocess.Popen(
        [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
        + [f"--{name}={value}" for name, value in options.items()],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    family = psutil.Process(process.pid)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        _wait_for(f"{url}/api/version", process, folder)
        # The code that is under test, as a user's would be installed.
        client = environment | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        yield Head(url, f"127.0.0.1:{gcs}", family, client)
    finally:
        children = family.children(recursive=True) if family.is_running() else []
        process.terminate()
        _, left = psutil.wait_procs(children, timeout=60)
        for one in left:
            one.kill()
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if httpx.get(url, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, (folder / "start.log").read_text()
        assert time.monotonic() < deadline, (folder / "start.log").read_text()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def place(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with training_place(tmp_path_factory.mktemp("submit"), tiny_folder, GRADERS_TO_SEND) as place:
        yield place


def _spec(place: Place, name: str) -> Path:
    """Write a job whose prompts and reward are in the current folder; returns the spec's path."""
    data = place.spec({name: python(name)}).model_dump(mode="json")
    data["experts"][0]["task"]["jsonl"] = "prompts.jsonl"
    file = place.root / f"{name}.yaml"
    file.write_text(dump_spec(TrainSpec.model_validate(data)))
    return file


@contextmanager
def _followed_until_held(head: Head, spec: Path) -> Iterator[subprocess.Popen[str]]:
    """Submit a job and follow it; the block begins in its fifth step."""
    reached = spec.with_name(f"{spec.stem}.reached")
    command = [ZFLEET, "submit", str(spec), "--address", head.url]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=head.environment, text=True, **pipes) as follower:
        try:
            while not reached.exists():
                assert follower.poll() is None, follower.communicate()
                time.sleep(0.1)
            yield follower
        finally:
            follower.kill()


def test_jobs_are_sent_followed_left_and_stopped(head: Head, place: Place) -> None:
    """Two at the same time, which takes little longer than one: the first ends by itself, the second is stopped."""
    submitted = head.zfleet("submit", str(_spec(place, "sent")), "--no-wait")
    assert submitted.returncode == 0, submitted.stderr
    sent = submitted.stdout.strip()

    # Ctrl-C leaves a job running.
    with _followed_until_held(head, _spec(place, "held")) as follower:
        follower.send_signal(signal.SIGINT)
        output, errors = follower.communicate(timeout=60)
    assert follower.returncode == 130, errors
    assert "2 of 38 prompts of prompts are left out" in output
    assert f"note: base.model is {place.base} ({place.slug} on this machine): the cluster must have it" in errors
    last = errors.splitlines()[-1]
    held = last.split()[0]
    assert last.startswith(f"{held} goes on: `zfleet jobs follow {held} --address {head.url}`")
    shown = json.loads(head.zfleet("jobs", "status", held, "--json").stdout)
    assert (shown["status"], shown["kind"], shown["run"]) == ("RUNNING", "train", "held")

    # Its worker ends with it.
    (worker,) = map(psutil.Process, place.calls("held"))
    stopped = head.zfleet("jobs", "stop", held)
    assert stopped.stdout == f"{held}: STOPPED\n", stopped.stderr
    worker.wait(timeout=60)

    followed = head.zfleet("jobs", "follow", sent)
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "train sent: sent/1" in followed.stdout
    (version,) = place.registry.list()
    assert (version.name, version.provenance.code_version) == ("sent", code_version())
    imported = Path((place.root / "imported").read_text())
    assert imported.name == f"{GRADERS}.py"
    assert not imported.is_relative_to(place.root), "the reward is not the one that was sent"
    listed = json.loads(head.zfleet("jobs", "list", "--json").stdout)
    assert [(job["id"], job["status"]) for job in listed] == [(held, "STOPPED"), (sent, "SUCCEEDED")]

    # The token is nowhere that others read.
    jobs = httpx.get(f"{head.url}/api/jobs/", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False).text
    assert sent in jobs
    for text in (jobs, submitted.stderr, followed.stdout, followed.stderr, output, errors):
        assert TOKEN not in text


@pytest.mark.drill
def test_a_job_that_was_stopped_goes_on_when_it_is_submitted_again(head: Head, place: Place) -> None:
    spec = _spec(place, "resumed")
    with _followed_until_held(head, spec) as follower:
        (job,) = (
            job["id"] for job in json.loads(head.zfleet("jobs", "list", "--json").stdout) if job["run"] == "resumed"
        )
        assert head.zfleet("jobs", "stop", job).returncode == 0
        _, errors = follower.communicate(timeout=60)
    assert follower.returncode == 143
    assert f"{job} was stopped; submitted again, it goes on" in errors
    assert head.zfleet("jobs", "stop", job).stdout == f"{job} had ended: STOPPED\n"
    again = head.zfleet("submit", str(spec))
    assert again.returncode == 0, again.stdout + again.stderr
    first, second = place.calls("resumed").values()
    assert (first, second) == (IN_STEP_5, CALLS_FROM_STEP_5), "more than the step under way was repeated"
    (version,) = (version for version in place.registry.list() if version.name == "resumed")
    assert version.z_digest == place.undisturbed()


@pytest.mark.drill
def test_a_job_that_fails_ends_the_command_with_its_error(head: Head, place: Place) -> None:
    failed = head.zfleet("submit", str(_spec(place, "raising")))
    assert failed.returncode == 1
    assert "error: reward graders_of_training_tests:raising on sample" in failed.stdout
    job = failed.stderr.splitlines()[-1].split()[0]
    assert failed.stderr.splitlines()[-1] == f"{job} failed with exit code 1; the reason is in its log above"
    shown = head.zfleet("jobs", "status", job, COLUMNS="2000")
    assert "no grade for this" in shown.stdout


def test_what_is_wrong_with_an_address_a_token_or_an_id_is_said(head: Head) -> None:
    asked = [
        (["jobs", "follow", "raysubmit_none", "--address", head.url], {}),
        (["jobs", "list", "--address", head.url], {"RAY_AUTH_TOKEN": "f" * 32}),
        (["jobs", "list", "--address", head.gcs], {}),
    ]
    # Side by side: each imports Ray.
    commands = [
        subprocess.Popen(
            [ZFLEET, *arguments],
            env=head.environment | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments, changes in asked
    ]
    unknown, refused, wrong = [command.communicate(timeout=100)[1] for command in commands]
    assert [command.returncode for command in commands] == [1, 1, 1]
    assert unknown.startswith(f"error: the cluster at {head.url} knows no job 'raysubmit_none'\n")
    assert refused.startswith(f"error: the Ray cluster at {head.url} wants another token: ")
    assert "f" * 32 not in refused
    assert f"what answers at http://{head.gcs} is no dashboard" in wrong
    assert "not that of `ray.init` (port 6379)" in wrong
