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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from zfleet.config.load import dump_spec
from zfleet.config.specs import BaseSpec, ServeSpec
from zfleet_jobs.testing.training import contains, training_place

STORE = 100_000_000
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
                node.terminate()
                node.wait(60)
                _, left = psutil.wait_procs(family, 30)
                for process in left:
                    process.kill()

    def drive(self, what: str, *arguments: str) -> Any:
        """Run a driver of this file on the first node, and return what it printed."""
        command = [sys.executable, __file__, what, self.address, *arguments]
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


@pytest.fixture
def second(nodes: Nodes) -> Iterator[subprocess.Popen[bytes]]:
    with nodes.second() as node:
        yield node


def test_two_workers_that_see_no_path_train_and_the_base_crosses_once(
    nodes: Nodes, second: subprocess.Popen[bytes], tiny_folder: Path
) -> None:
    base = Path(shutil.copytree(tiny_folder, nodes.hidden / "tiny"))
    with training_place(nodes.hidden, base, "") as place:
        storage = nodes.root / "storage"
        spec = nodes.hidden / "crossed.yaml"
        spec.write_text(dump_spec(place.spec({"crossed": contains("a")}, num_workers=2, storage=str(storage))))
        command = [str(Path(sys.executable).with_name("zfleet")), "train", str(spec), "--json"]
        done = subprocess.run(
            [*command, "--address", nodes.address], cwd=nodes.hidden, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        (expert,) = json.loads(done.stdout)
        z = place.registry.load(place.registry.resolve("crossed", place.slug))
        factors = json.loads(next((nodes.hidden / "cache" / "factors").glob("*/factors.json")).read_text())
        assert (expert["z_digest"], z.factors) == (z.digest, factors["digest"])
    assert "fetching base tiny from" in done.stderr, "nobody was told"
    assert nodes.said("fetching base tiny from") == 1
    assert nodes.said("fetching factors of base tiny from") == 1
    arrived = sorted(path.name for path in (nodes.cache / "fetched").iterdir() if path.is_dir())
    assert [name.split("-")[0] for name in arrived] == ["base", "factors"]
    assert not list(nodes.cache.rglob("*.part"))


@pytest.mark.drill
def test_a_service_answers_from_a_node_that_sees_no_path(
    nodes: Nodes, second: subprocess.Popen[bytes], tiny_folder: Path
) -> None:
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
def test_processes_of_a_node_share_one_copy(nodes: Nodes, second: subprocess.Popen[bytes], dtype: str) -> None:
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
def test_a_node_that_is_killed_goes_on_where_it_stopped(nodes: Nodes) -> None:
    """A second node in its place has its disk."""
    with nodes.second() as doomed:
        folders = (str(nodes.hidden / "sent"), str(nodes.cache / "sent"))
        assert nodes.drive("send", *folders, "node", str(doomed.pid)) == "killed"
    partial = next((nodes.cache / "sent").glob(".*.part")).stat().st_size
    assert 0 < partial < PIECES
    with nodes.second():
        arrived = nodes.drive("send", *folders)
    assert arrived == {"whole": True, "sent": PIECES - partial}


@pytest.mark.drill
def test_a_sending_process_that_is_killed_is_replaced(nodes: Nodes, second: subprocess.Popen[bytes]) -> None:
    folders = (str(nodes.hidden / "sent"), str(nodes.cache / "sent-2"))
    arrived = nodes.drive("send", *folders, "sender", str(nodes.raylet))
    assert arrived == {"whole": True, "sent": PIECES}


def test_what_cannot_be_sent_is_told(nodes: Nodes, second: subprocess.Popen[bytes]) -> None:
    (nodes.hidden / "sent").mkdir(exist_ok=True)
    full, gone, missing = nodes.drive("refuse", str(nodes.hidden / "few"), str(nodes.small), str(nodes.cache / "few"))
    assert f"{nodes.small} on " in full
    assert "has room for" in full
    assert "5000000 are needed" in full
    assert "stopped on the way from elsewhere to" in gone
    assert "No such file or directory" in missing


# Drivers


def _join(address: str) -> Any:
    import ray

    import zfleet_cluster  # noqa: F401  (it sets Ray's environment before Ray is imported)

    ray.init(address=address, log_to_driver=False, configure_logging=False)
    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) < 2:  # type: ignore[no-untyped-call]
        assert time.monotonic() < deadline, "there is no second node"
        time.sleep(0.1)
    return ray


def _drive_share(address: str, folder: str, dtype: Any) -> Any:
    """Two processes of the second node open a base at once; what is in their memory when both have computed."""
    ray = _join(address)
    from zfleet.models.bundle import pack_base
    from zfleet_cluster.fleet.base import ShippedBase, ship

    base = Path(folder)
    if not base.exists():
        _save_larger(base)

    class Opened:
        def open(self, shipped: ShippedBase) -> int:
            import torch

            torch.set_num_threads(1)
            self.model = shipped.find().open()
            with torch.no_grad():
                for z in (None, torch.ones(1, self.model.layout.size)):
                    self.model.logits(torch.arange(16).unsqueeze(0), z)
            tensors = [*self.model.base.model.parameters(), *self.model.base.model.buffers()]
            return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())

        def memory(self) -> dict[str, int]:
            return _memory((str(base), os.environ["ZFLEET_CACHE"]))

    import torch

    shipped = ship(pack_base(BaseSpec(model=folder, dtype=dtype)))
    processes = [ray.remote(Opened).remote() for _ in range(2)]
    held = ray.get([one.open.remote(shipped) for one in processes])
    assert held[0] == held[1]
    found = ray.get([one.memory.remote() for one in processes])
    weights = sum(file.size for file in shipped.reference.model.files if file.name.endswith(".safetensors"))
    return {"weights": weights * getattr(torch, dtype).itemsize // 4, "held": held[0], "processes": found}


def _save_larger(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from zfleet.models.lab.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=8,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _memory(folders: tuple[str, ...]) -> dict[str, int]:
    """Bytes of this process: in maps of files in these folders, of them its proportional share, and its own."""
    found = {"mapped": 0, "share": 0, "anonymous": 0}
    name = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            name = rest[-1] if len(rest) > 4 else ""
        elif name.startswith(folders) and first in ("Rss:", "Pss:"):
            found["mapped" if first == "Rss:" else "share"] += 1024 * int(rest[0])
        elif name.startswith(folders) and first == "Anonymous:":
            found["anonymous"] += 1024 * int(rest[0])
    return found


def _drive_send(address: str, folder: str, into: str, kill: str = "", pid: str = "") -> Any:
    """Send a large file to the second node; in the middle kill that ``node``, or the ``sender`` below a raylet."""
    ray = _join(address)
    import numpy as np
    from ray.exceptions import RayError

    from zfleet.models.reference import FolderReference, StoredFile
    from zfleet.remembered import file_sha256
    from zfleet_cluster.bases.sending import SendingNode

    path = Path(folder) / "large.bin"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.random.default_rng(0).bytes(PIECES))
    file = StoredFile(path.name, PIECES, file_sha256(path))
    reference = FolderReference("a large file", folder, (file,))

    def fetch(node: SendingNode) -> dict[str, object]:
        from zfleet_cluster.bases.copying import copy_files
        from zfleet_cluster.bases.sending import _Folder

        Path(into).mkdir(parents=True, exist_ok=True)
        sent: list[int] = []
        copy_files(_Folder(node, reference), [file], Path(into), sent.append)
        return {"whole": file_sha256(Path(into) / file.name) == file.sha256, "sent": sum(sent)}

    fetching = ray.remote(max_retries=0)(fetch).remote(SendingNode.here())
    partial = Path(into) / file.partial
    if kill:
        while not partial.exists() or partial.stat().st_size < PIECES // 8:
            time.sleep(0.001)
        family = psutil.Process(int(pid))
        members = family.children(recursive=True)
        # Between two pieces the process that sends is idle.
        senders = [one for one in members if one.name().startswith(("ray::_read_piece", "ray::IDLE"))]
        doomed = [*members, family] if kill == "node" else senders
        assert doomed, "nothing was being sent"
        for process in doomed:
            process.kill()
    try:
        return ray.get(fetching)
    except RayError:
        return "killed"


def _drive_refuse(address: str, folder: str, small: str, into: str) -> Any:
    """What a node says whose disk is full, of a node that is gone, and of a file that is gone."""
    ray = _join(address)
    from zfleet.errors import BaseModelError
    from zfleet.models.reference import FolderReference, StoredFile
    from zfleet.remembered import file_sha256
    from zfleet_cluster.bases.sending import SendingNode

    path = Path(folder) / "few.bin"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * 5_000_000)
    file = StoredFile(path.name, 5_000_000, file_sha256(path))

    def fetch(node: SendingNode, one: StoredFile, into: str) -> str:
        Path(into).mkdir(parents=True, exist_ok=True)
        try:
            node.bring(FolderReference("a file", folder, (one,)), [one], Path(into))
        except BaseModelError as error:
            return error.message
        return "arrived"

    here = SendingNode.here()
    elsewhere, lost = SendingNode("a" * len(here.id), "elsewhere"), StoredFile("lost", 10, "0" * 64)
    there: Any = ray.remote(fetch)
    cases = ((here, file, small), (elsewhere, file, into), (here, lost, into))
    told: list[str] = ray.get([there.remote(*one) for one in cases])
    return told


if __name__ == "__main__":
    drivers: dict[str, Any] = {"share": _drive_share, "send": _drive_send, "refuse": _drive_refuse}
    print(json.dumps(drivers[sys.argv[1]](*sys.argv[2:])))
