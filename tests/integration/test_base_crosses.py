"""A base crosses from the driver's node to one that sees none of its paths: once, and whatever dies on the way.

Real nodes of a cluster of their own, because what is shown is what Ray does between them. Both are on this machine; the
second one is started where the folders of the first are empty (a mount namespace), and has a cache of its own. Drivers
are processes of their own, because they join that cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from zfleet.config.load import dump_spec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import BaseSpec
from zfleet.models.fetch import fetch
from zfleet.models.known import KNOWN_BASES
from zfleet_jobs.testing.training import contains, training_place

STORE = 100_000_000
_DRIVERS = Path(__file__).with_name("drivers_of_crossing.py")
PIECES = 400_000_000
"""Bytes of what is sent while something dies: a second or two."""


@dataclass(frozen=True)
class Nodes:
    """Two nodes; the first runs drivers and no worker.

    Attributes:
        address: Of the cluster.
        raylet: The process of the first one below which workers run.
        root: A folder that both see.
        hidden: A folder that the first one alone sees.
        small: A disk of the second one, of 4 MB.
        cache: Of the second one.
        logs: Of both.
    """

    address: str
    raylet: int
    root: Path
    hidden: Path
    small: Path
    cache: Path
    logs: Path

    @contextmanager
    def second(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the second node inside the block."""
        bubblewrap = shutil.which("bwrap")
        assert bubblewrap is not None, "`make sandbox` installs bubblewrap"
        command = [bubblewrap, "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", str(self.hidden)]
        command += ["--size", "4000000", "--tmpfs", str(self.small), str(Path(sys.executable).with_name("ray"))]
        command += ["start", "--block", "--address", self.address]
        command += ["--num-cpus", "2", "--object-store-memory", str(STORE)]
        environment = os.environ | {"ZFLEET_CACHE": str(self.cache)}
        with (
            (self.root / "second.log").open("a") as log,
            subprocess.Popen(command, env=environment, stdout=log, stderr=log) as node,
        ):
            try:
                yield node
            finally:
                family = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
                # A raylet that is asked to end says so to the cluster; otherwise work goes to a node that is gone.
                raylets = [process for process in family if process.name() == "raylet"]
                for raylet in raylets:
                    raylet.terminate()
                psutil.wait_procs(raylets, 30)
                node.terminate()
                node.wait(60)
                _, left = psutil.wait_procs(family, 30)
                for process in left:
                    process.kill()

    def drive(self, what: str, *arguments: str) -> Any:
        """Run a driver on the first node, and return what it printed."""
        command = [sys.executable, str(_DRIVERS), what, self.address, *arguments]
        environment = os.environ | {"ZFLEET_CACHE": str(self.hidden / "cache")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def said(self, words: str) -> int:
        """Count what workers have said."""
        return sum(path.read_text(errors="replace").count(words) for path in self.logs.glob("worker-*.err"))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    head: Any = Cluster(initialize_head=True, head_node_args=settings)
    root = tmp_path_factory.mktemp("nodes")
    for name in ("hidden", "small"):
        (root / name).mkdir()
    logs = Path(head.head_node.get_logs_dir_path())
    (raylet,) = head.head_node.all_processes["raylet"]
    try:
        yield Nodes(head.address, raylet.process.pid, root, root / "hidden", root / "small", root / "cache", logs)
    finally:
        head.shutdown()


@pytest.mark.drill
def test_a_node_that_is_killed_goes_on_where_it_stopped(nodes: Nodes) -> None:
    """A second node in its place has its disk."""
    with nodes.second() as doomed:
        sending = (str(nodes.hidden / "sent"), str(PIECES), str(nodes.cache / "sent"))
        assert nodes.drive("send", *sending, "node", str(doomed.pid)) == "killed"
    partial = next((nodes.cache / "sent").glob(".*.part")).stat().st_size
    assert 0 < partial < PIECES
    with nodes.second():
        arrived = nodes.drive("send", *sending)
    assert arrived == {"whole": True, "sent": PIECES - partial}


def _arrived(nodes: Nodes) -> set[str]:
    """The folders that came to the second node."""
    return {path.name for path in (nodes.cache / "fetched").glob("*") if path.is_dir()}


@pytest.fixture(scope="class")
def second(nodes: Nodes) -> Iterator[subprocess.Popen[bytes]]:
    with nodes.second() as node:
        yield node


@pytest.mark.usefixtures("second")
class TestSecondNode:
    """One second node serves them all."""

    @pytest.mark.parametrize("name", ["tiny", pytest.param("smollm2", marks=pytest.mark.drill)])
    def test_two_workers_that_see_no_path_train_and_the_base_crosses_once(
        self, nodes: Nodes, tiny_folder: Path, name: str
    ) -> None:
        given = tiny_folder if name == "tiny" else fetch(KNOWN_BASES[name])
        base = Path(shutil.copytree(given, nodes.hidden / name))
        before = _arrived(nodes)
        with training_place(nodes.hidden, base, "") as place:
            storage = nodes.root / f"storage-{name}"
            spec = nodes.hidden / "crossed.yaml"
            spec.write_text(dump_spec(place.spec({"crossed": contains("a")}, num_workers=2, storage=str(storage))))
            command = [str(Path(sys.executable).with_name("zfleet")), "train", str(spec), "--json"]
            done = subprocess.run(
                [*command, "--address", nodes.address], cwd=nodes.hidden, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            (expert,) = json.loads(done.stdout)
            z = place.registry.load(place.registry.resolve("crossed", place.slug))
            stored = (nodes.hidden / "cache" / "factors").glob("*/factors.json")
            assert expert["z_digest"] == z.digest
            assert z.factors in [json.loads(path.read_text())["digest"] for path in stored]
        assert f"fetching base {name} from" in done.stderr, "nobody was told"
        assert nodes.said(f"fetching base {name} from") == 1
        assert nodes.said(f"fetching factors of base {name} from") == 1
        assert sorted(folder.split("-")[0] for folder in _arrived(nodes) - before) == ["base", "factors"]
        assert not list(nodes.cache.rglob("*.part"))

    @pytest.mark.drill
    def test_a_service_answers_from_a_node_that_sees_no_path(self, nodes: Nodes, tiny_folder: Path) -> None:
        import httpx

        from zfleet_cli.demo.lab.served import free_port

        base = nodes.hidden / "served"
        shutil.copytree(tiny_folder, base)
        spec = ServeSpec(base=BaseSpec(model=str(base)), port=free_port())
        (nodes.hidden / "serve.yaml").write_text(dump_spec(spec))
        command = [str(Path(sys.executable).with_name("zfleet")), "serve", "serve.yaml", "--address", nodes.address]
        environment = os.environ | {"ZFLEET_CACHE": str(nodes.hidden / "cache")}
        with subprocess.Popen(command, cwd=nodes.hidden, env=environment, stdout=subprocess.PIPE, text=True) as service:
            try:
                assert service.stdout is not None
                assert "serving served" in service.stdout.readline()
                body = {"model": "served", "prompt": "flip abc", "max_tokens": 3}
                answer = httpx.post(f"http://127.0.0.1:{spec.port}/v1/completions", json=body, timeout=60)
                assert answer.json()["usage"]["completion_tokens"] == 3
            finally:
                service.send_signal(signal.SIGINT)
                service.wait(60)

    @pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.drill)])
    def test_processes_of_a_node_share_one_copy(self, nodes: Nodes, dtype: str) -> None:
        """Of weights and of what the linears compute with; measured by their proportional share."""
        measured = nodes.drive("share", str(nodes.hidden / "larger"), dtype)
        weights, held = measured["weights"], measured["held"]
        assert weights > 10_000_000
        assert held > weights
        for one in measured["processes"]:
            assert one["mapped"] > 0.95 * held, "what they compute with is in their own memory"
            assert one["share"] < 0.6 * one["mapped"], "each process has a copy of its own"
            assert one["anonymous"] < 0.2 * held

    @pytest.mark.drill
    def test_a_sending_process_that_is_killed_is_replaced(self, nodes: Nodes) -> None:
        sending = (str(nodes.hidden / "sent"), str(PIECES), str(nodes.cache / "sent-2"))
        arrived = nodes.drive("send", *sending, "sender", str(nodes.raylet))
        assert arrived == {"whole": True, "sent": PIECES}

    def test_what_cannot_be_sent_is_told(self, nodes: Nodes) -> None:
        (nodes.hidden / "sent").mkdir(exist_ok=True)
        full, gone, missing = nodes.drive(
            "refuse", str(nodes.hidden / "few"), str(nodes.small), str(nodes.cache / "few")
        )
        assert f"{nodes.small} on " in full
        assert "has room for" in full
        assert "5000000 are needed" in full
        assert "stopped on the way from elsewhere to" in gone
        assert "No such file or directory" in missing
