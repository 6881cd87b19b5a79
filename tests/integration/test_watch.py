"""A watch on a real tracking server: its webhooks arrive, and either side is killed and started again.

Only a server sends webhooks, and only processes can be killed. Everything else is in tests/unit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance
from zfleet_registry.promotion import promote
from zfleet_registry.testing import TrackingServer
from zfleet_registry.watch import Cursor, Webhooks, watch

pytestmark = pytest.mark.drill

SLUG = "lab-1a2b3c4d"
LOOPBACK = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path_factory.mktemp("server"), LOOPBACK)
    server.start()
    yield server
    server.kill()


def put(registry: ExpertRegistry, name: str, value: float) -> ExpertVersion:
    z = ZVector({"layers.0.mlp": torch.full((8,), value)}, "1a2b3c4d" * 8, "f" * 64, "mlp")
    return registry.register(name, z, Provenance.of(z), base_name="lab")


def test_a_webhook_says_at_once_that_something_changed(
    server: TrackingServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The watch would ask by itself an hour later."""
    monkeypatch.setattr(watch, "INTERVAL", 3600)
    registry = ExpertRegistry(server.uri)
    changes = registry.watch(webhooks=Webhooks())
    (mine,) = registry._client.list_webhooks()
    try:
        late = threading.Timer(120, changes.close)
        late.start()
        writer = threading.Timer(1, put, (registry, "math", 1.0))
        writer.start()
        assert next(changes).action.expert == f"{SLUG}.math"
        late.cancel()
    finally:
        changes.close()
    assert registry._client.list_webhooks() == []
    # A watch that was killed at the same address left its webhook.
    registry._client.create_webhook("zfleet-watch", mine.url, ["model_version.created"], secret="old")
    registry._client.create_webhook("another-program", mine.url, ["model_version.created"])
    port = int(mine.url.rstrip("/").rpartition(":")[2])
    again = registry.watch(webhooks=Webhooks(port=port))
    assert sorted(one.name for one in registry._client.list_webhooks()) == ["another-program", "zfleet-watch"]
    again.close()
    assert caplog.text == ""


def test_a_server_that_sends_no_webhooks_is_polled(server: TrackingServer, caplog: pytest.LogCaptureFixture) -> None:
    registry = ExpertRegistry(server.uri)
    changes = registry.watch(webhooks=Webhooks(url="gopher://watch.internal/"))
    assert "the tracking server sends no webhooks to gopher://watch.internal/" in caplog.text
    assert "changes are noticed by polling" in caplog.text
    put(registry, "polled", 1.0)
    assert next(changes).action.expert == f"{SLUG}.polled"
    changes.close()


class Command:
    """``zfleet experts watch --json`` in a process."""

    def __init__(self, uri: str, errors: Path, *options: str) -> None:
        program = [sys.executable, "-c", "from zfleet_cli.main import main; main()"]
        command = [*program, "experts", "watch", "--json", "--registry", uri, *options]
        self.errors = errors
        with errors.open("w") as stderr:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)

    def line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        assert text, self.errors.read_text()
        return dict(json.loads(text))

    def kill(self) -> None:
        self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture
def started() -> Iterator[Callable[..., Command]]:
    """Start commands, which end with the test."""
    commands: list[Command] = []

    def start(*arguments: Any) -> Command:
        commands.append(Command(*arguments))
        return commands[-1]

    yield start
    for command in commands:
        command.kill()


def test_nothing_is_lost_if_either_side_is_killed(
    server: TrackingServer, started: Callable[..., Command], tmp_path: Path
) -> None:
    registry = ExpertRegistry(server.uri)
    first = put(registry, "killed", 1.0)
    # Past what the other tests registered.
    others = {one.qualified.rpartition("/")[0]: one.version for one in registry.list() if one.name != "killed"}
    cursor = Cursor(others)
    running = started(server.uri, tmp_path / "one", "--since", cursor.to_text(), "--webhooks", "127.0.0.1:0")
    line = running.line()
    assert (line["what"], line["expert"], line["version"], line["entry"]) == ("register", f"{SLUG}.killed", 1, 1)
    promote(registry, first, "champion")
    line = running.line()
    assert (line["what"], line["alias"], line["state"]["aliases"]) == ("promote", "champion", {"champion": [1, 2]})
    running.kill()

    second = put(registry, "killed", 2.0)
    promote(registry, second, "champion")
    running = started(server.uri, tmp_path / "two", "--since", line["cursor"])
    assert [running.line()["entry"] for _ in range(2)] == [3, 4]
    server.kill()
    # The watch has noticed it when it says so.
    while "does not answer" not in running.errors.read_text():
        threading.Event().wait(0.1)
    server.start()
    put(ExpertRegistry(server.uri), "killed", 3.0)
    line = running.line()
    assert (line["entry"], line["version"]) == (5, 3)
    running.kill()
    said = running.errors.read_text()
    assert said.count("waiting; changes made meanwhile will follow") == 1
    assert said.count("answers again") == 1
    assert Cursor.from_text(line["cursor"]).entries[f"{SLUG}.killed"] == 5
