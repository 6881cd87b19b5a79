"""A registry that cannot be reached raises an error within seconds, and never shows a password."""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from zfleet.errors import RegistryError, RegistryUnreachable
from zfleet_registry import ExpertRegistry, probe
from zfleet_registry.address import address_of, redact


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "template",
    [
        "http://ann:hunter2@127.0.0.1:{}",
        "http://hunter2@127.0.0.1:{}",
        "postgresql://ann:hunter2@127.0.0.1:{}/mlflow",
        "postgresql+psycopg2://ann:hunter2@127.0.0.1:{}/mlflow?sslpassword=hunter2",
        "mysql+pymysql://ann:hunter2@127.0.0.1:{}/mlflow",
    ],
)
def test_an_unreachable_registry_is_reported_quickly_without_secrets(
    template: str, closed_port: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    start = time.monotonic()
    with pytest.raises(RegistryUnreachable, match="does not answer: Connection refused") as caught:
        ExpertRegistry(template.format(closed_port))
    assert time.monotonic() - start < 8
    output = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
    assert "hunter2" not in output
    assert f"127.0.0.1:{closed_port}" in caught.value.message
    assert "start it, check the URI" in caught.value.remedy


def test_a_driver_that_is_not_installed_is_named_with_what_installs_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}/mlflow"
        with pytest.raises(RegistryError, match="needs the driver psycopg2") as caught:
            ExpertRegistry(f"postgresql+psycopg2://ann@{address}")
    assert caught.value.remedy == "pip install psycopg2-binary"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if "/slow" in self.path:
            time.sleep(1)
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start an HTTP server that is not MLflow."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_is_not_mlflow(stranger: str) -> None:
    with pytest.raises(RegistryUnreachable, match="GET /health gave status 404"):
        ExpertRegistry(stranger)


def test_a_server_that_hangs(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.2)
    with pytest.raises(RegistryUnreachable, match="timed out"):
        ExpertRegistry(f"{stranger}/slow")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:///tmp/runs", "'file:///tmp/runs' is a folder"),
        ("./mlruns", "'./mlruns' is a folder"),
        ("ftp://host/x", "unknown scheme 'ftp'"),
        ("databricks://profile", "unknown scheme 'databricks'"),
        ("sqlite://", "names no plain file"),
        ("sqlite:///:memory:", "names no plain file"),
        ("http://ann:pass?word@host", r"http://\*\*\* cannot be read"),
        ("postgresql://ann:pass/word@host/db", r"postgresql://\*\*\* cannot be read"),
    ],
)
def test_unusable_uris_are_refused(uri: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message) as caught:
        ExpertRegistry(uri)
    assert "word" not in str(caught.value).partition(" (percent-encode")[0]


def test_addresses_and_library_texts_show_no_secrets() -> None:
    uri = "postgresql://ann:p%40ss@db.example:5432/mlflow?password=other&sslmode=require"
    assert address_of(uri) == "postgresql://db.example:5432/mlflow"
    text = redact(f"cannot connect to {uri} with p@ss, p%40ss or other", uri)
    assert text == "cannot connect to postgresql://db.example:5432/mlflow with ***, *** or ***"
    assert address_of("http://[::1]:5000/x") == "http://[::1]:5000/x"


def test_a_file_that_is_not_a_database_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, but long enough to be looked at" * 10)
    with pytest.raises(RegistryError, match="is not a readable sqlite database"):
        ExpertRegistry(root=tmp_path)


def test_a_path_that_cannot_be_in_a_uri_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"contains '\?'"):
        ExpertRegistry(root=tmp_path / "what?")


def test_a_root_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryUnreachable, match="cannot be opened"):
        ExpertRegistry(root=tmp_path / "file" / "registry")


def test_a_sqlite_uri_names_the_same_registry(root: Path, registry: ExpertRegistry) -> None:
    assert ExpertRegistry(f"sqlite:///{root}/mlflow.db", root).address == registry.address
