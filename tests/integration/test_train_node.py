"""A whole node of a cluster, killed while it trains.

A cluster of its own, because a node of it is killed, and a command of its own, because it joins that cluster.
"""

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
from zfleet_jobs.testing.training import CALLS_FROM_STEP_5, IN_STEP_5, python, training_place

GRADERS = f"""
def moved(completion, sample):
    if _at("moved", {IN_STEP_5}):
        time.sleep(300)
    return _grade(completion)
"""


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A cluster whose head runs no worker."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100_000_000},
    )
    yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.drill
def test_a_killed_node_loses_no_step(tiny_folder: Path, tmp_path: Path, nodes: Any) -> None:
    with training_place(tmp_path, tiny_folder, GRADERS) as place:
        doomed = nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
        spec = tmp_path / "moved.yaml"
        spec.write_text(dump_spec(place.spec({"moved": python("moved")})))
        command = [str(Path(sys.executable).with_name("zfleet")), "train", str(spec), "--json"]
        with (
            (tmp_path / "errors").open("w") as errors,
            subprocess.Popen(
                [*command, "--address", nodes.address], cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as job,
        ):
            try:
                while not (tmp_path / "moved.reached").exists():
                    assert job.poll() is None, (tmp_path / "errors").read_text()
                    time.sleep(0.1)
                nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
                (pid,) = place.calls("moved")
                raylet = psutil.Process(doomed.all_processes["raylet"][0].process.pid)
                # As when the power goes: the node's manager and all that it has started.
                for process in [raylet, *raylet.children(recursive=True)]:
                    os.kill(process.pid, signal.SIGKILL)
                output, _ = job.communicate(timeout=300)
            finally:
                job.kill()
        said = (tmp_path / "errors").read_text()
        assert job.returncode == 0, said
        assert f"expert moved: worker 0 (pid {pid} on " in said
        assert "died; restarting from step 4" in said
        (expert,) = json.loads(output)
        first, calls = place.calls("moved").values()
        assert (first, calls) == (IN_STEP_5, CALLS_FROM_STEP_5), "more than the step under way was repeated"
        assert expert["z_digest"] == place.undisturbed()
