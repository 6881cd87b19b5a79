"""`zfleet train` as a command whose driver is killed, or whose disk is full.

Commands of their own: a test's process cannot be killed, and cannot see another file system than its cluster does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from zfleet.config.load import dump_spec
from zfleet_jobs.run_folder.checkpoints import ExpertFolder
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.testing.training import (
    CALLS_FROM_STEP_5,
    IN_STEP_5,
    Place,
    python,
    training_place,
)
from zfleet_jobs.train.run import run_train

ZFLEET = str(Path(sys.executable).with_name("zfleet"))
GRADERS = f"""
def orphaned(completion, sample):
    if _at("orphaned", {IN_STEP_5}):
        time.sleep(300)
    return _grade(completion)


def filling(completion, sample):
    if _at("filling", {IN_STEP_5}):
        with (ROOT / "small" / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
    return _grade(completion)
"""


@pytest.fixture(scope="module")
def place(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with training_place(tmp_path_factory.mktemp("killed"), tiny_folder, GRADERS) as place:
        yield place


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> str:
    """The digest of the z that all jobs here must end with."""
    return place.undisturbed()


def test_a_killed_driver_loses_no_step(place: Place, undisturbed: str) -> None:
    spec = place.root / "orphaned.yaml"
    spec.write_text(dump_spec(place.spec({"orphaned": python("orphaned")})))
    driver = subprocess.Popen([ZFLEET, "train", str(spec)], cwd=place.root, start_new_session=True)
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 600
        while not (place.root / "orphaned.reached").exists():
            assert driver.poll() is None, "the command ended by itself"
            assert time.monotonic() < deadline, "the command did not come that far"
            time.sleep(0.1)
        family = psutil.Process(driver.pid).children(recursive=True)
        workers = [process for process in family if "Train" in process.name()]
        assert workers
        second = subprocess.run(
            [ZFLEET, "train", str(spec)], cwd=place.root, capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert "run 'orphaned' in" in second.stderr
        assert f"is being written by process {driver.pid} on {socket.gethostname()} since 2" in second.stderr
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        # At once: the worker lives on for seconds, and this command begins after its end.
        resume = [ZFLEET, "train", "--resume", "orphaned", "--set", f"storage={place.storage}", "--json"]
        tokens = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_MODE"} | {"HOME": str(place.root)}
        done = subprocess.run(resume, cwd=place.root, env=tokens, capture_output=True, text=True, check=False)
        assert not [process for process in workers if _runs(process)], "a worker of the killed command still runs"
    finally:
        driver.kill()
        for process in family:
            if process.is_running():
                process.kill()

    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert "train orphaned: orphaned/1" in told
    assert told[0].startswith("2 of 38 prompts of prompts are left out"), "the first line is ours"
    assert (place.root / ".ray" / "auth_token").exists(), "Ray asks for a token unless RAY_AUTH_MODE says otherwise"
    (expert,) = json.loads(done.stdout)
    assert expert["z_digest"] == undisturbed
    first, calls = place.calls("orphaned").values()
    assert (first, calls) == (IN_STEP_5, CALLS_FROM_STEP_5), "more than the step under way was repeated"
    assert [step for step, _ in place.registry.curve(expert["run_id"], "reward")] == [1, 2, 3, 4, 5, 6]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_full_disk_loses_no_step(place: Place, undisturbed: str, ray_cluster: None) -> None:
    """A file system of 4 MB fills up in step 5; what was on it is copied to one with room, where the job goes on."""
    small, copy = place.root / "small", place.root / "copy"
    small.mkdir()
    spec = place.spec({"filling": python("filling")}, storage=str(small))
    file = place.root / "filling.yaml"
    file.write_text(dump_spec(spec))
    script = f"{ZFLEET} train {file}; code=$?; rm {small}/ballast; cp -r {small} {copy}; exit $code"
    bubblewrap = shutil.which("bwrap")
    assert bubblewrap is not None, "`make sandbox` installs bubblewrap"
    disk = [bubblewrap, "--die-with-parent", "--dev-bind", "/", "/", "--size", "4000000", "--tmpfs", str(small)]
    failed = subprocess.run([*disk, "bash", "-c", script], cwd=place.root, capture_output=True, text=True, check=False)

    assert failed.returncode == 1, failed.stderr
    assert f"error: {small}/samples/run=filling/expert=filling/digest=" in failed.stderr
    assert " cannot be written: " in failed.stderr
    assert "No space left on device" in failed.stderr
    assert "remedy: make room there" in failed.stderr
    assert "Traceback" not in failed.stderr
    (seen,) = (copy / "filling").glob("filling-*")
    assert ExpertFolder(Storage.at(str(seen)), "").checkpoint_steps() == [3, 4]
    hidden = [*seen.rglob(".*"), *(copy / "samples").rglob(".*")]
    assert not [file for file in hidden if not file.name.startswith(".validate_storage")], "half-written"

    (expert,) = run_train(spec.model_copy(update={"storage": str(copy)}))
    assert expert.z_digest == undisturbed
    first_calls, calls = place.calls("filling").values()
    assert first_calls in range(IN_STEP_5, IN_STEP_5 + 6)
    assert calls == CALLS_FROM_STEP_5, "more than the step under way was repeated"
