"""A search whose driver is killed in the middle, or a node of whose cluster is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from zfleet.config.load import dump_spec
from zfleet.models.bundle import BaseBundle
from zfleet.svf.zvector import ZVector
from zfleet_jobs.search.run import run_search
from zfleet_jobs.testing.searches import calls, held_spec, undisturbed

ZFLEET = str(Path(sys.executable).with_name("zfleet"))


def _until_reached(root: Path, job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not (root / "reached").exists():
        assert job.poll() is None, (root / "errors").read_text()
        assert time.monotonic() < deadline, "the command did not come that far"
        time.sleep(0.1)


@pytest.mark.drill
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_driver_loses_no_round(
    packed: BaseBundle, two_experts: dict[str, ZVector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = held_spec(two_experts, packed, tmp_path)
    file = tmp_path / "held.yaml"
    file.write_text(dump_spec(spec))
    family: list[psutil.Process] = []
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(
            [ZFLEET, "search", str(file)], cwd=tmp_path, stderr=errors, text=True, start_new_session=True
        ) as driver,
    ):
        try:
            _until_reached(tmp_path, driver)
            family = psutil.Process(driver.pid).children(recursive=True)
            time.sleep(3)  # Tune writes its state once a second.
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        finally:
            driver.kill()
            for process in family:
                if process.is_running():
                    process.kill()
    before = calls(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    resumed = run_search(spec)
    assert calls(tmp_path) - before < resumed.evaluations, "the second run did not go on from what was done"
    assert (resumed.z_digest, resumed.history) == undisturbed(spec, packed, two_experts)


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A cluster whose head runs no actor."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100_000_000},
    )
    yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.drill
def test_a_killed_node_loses_no_round(
    packed: BaseBundle, two_experts: dict[str, ZVector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: Any
) -> None:
    doomed = nodes.add_node(num_cpus=2, object_store_memory=100_000_000)
    spec = held_spec(two_experts, packed, tmp_path)
    file = tmp_path / "held.yaml"
    file.write_text(dump_spec(spec))
    command = [ZFLEET, "search", str(file), "--json", "--address", nodes.address]
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, text=True) as job,
    ):
        try:
            _until_reached(tmp_path, job)
            nodes.add_node(num_cpus=2, object_store_memory=100_000_000)
            raylet = psutil.Process(doomed.all_processes["raylet"][0].process.pid)
            # As when the power goes: the node's manager and all that it has started.
            for process in [raylet, *raylet.children(recursive=True)]:
                os.kill(process.pid, signal.SIGKILL)
            output, _ = job.communicate(timeout=400)
        finally:
            job.kill()
    assert job.returncode == 0, (tmp_path / "errors").read_text()
    (found,) = json.loads(output)
    monkeypatch.syspath_prepend(tmp_path)
    digest, history = undisturbed(spec, packed, two_experts)
    assert found["z_digest"] == digest
    assert [one["evaluations"] for one in found["history"]] == [one.evaluations for one in history]
