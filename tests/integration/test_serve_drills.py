"""Drills of `zfleet serve`: ten turns by OpenAI's client for Node, and large bodies beside other clients.

With `zfleet serve` as a process of its own: OpenAI's client is in another language, and memory is measured process by
process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import large_bodies
from service.running import serving

pytestmark = pytest.mark.drill

CONVERSATION = Path(__file__).with_name("openai_conversation.mjs")

Running = tuple[str, psutil.Process]


@pytest.fixture(scope="module")
def running(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    base = {"base__model": str(tiny_folder), "base__name": "lab"}
    with serving(tmp_path_factory.mktemp("serve"), **base) as running:
        yield running


def test_ten_turns_in_node(running: Running, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node is not installed")
    fetched = subprocess.run([npm, "install", "--prefix", str(tmp_path), "openai@7"], capture_output=True, check=False)
    if fetched.returncode:
        pytest.skip(f"npm cannot fetch openai: {fetched.stderr.decode()[-300:]}")
    done = subprocess.run(
        [node, str(CONVERSATION), f"{running[0]}/v1", "lab"],
        env=os.environ | {"NODE_PATH": str(tmp_path / "node_modules")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"turns": 20, "model": "lab"}


def test_large_bodies_are_refused_beside_clients_and_take_no_memory(running: Running) -> None:
    options = large_bodies.read_options(["--rounds", "1", "--seconds", "10"])
    found = large_bodies.measure(*running, options)
    assert set(found["refused"]) == set(options.sizes)
    # It begins with some 600 MB.
    assert found["peak_mb"]["gateway"] < 1200
