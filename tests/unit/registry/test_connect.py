"""A registry that cannot be reached raises an error within seconds, and never shows a password."""

from __future__ import annotations

import logging
import socket
import sqlite3
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from zfleet.errors import AccessDenied, RegistryError, RegistryUnreachable
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
    # MLflow's own retries take minutes; a busy machine, several seconds.
    assert time.monotonic() - start < 40
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
        """Answer as other programs do: the first part of the path says which."""
        kind = self.path.split("/")[1]
        if kind == "slow":
            time.sleep(1)
        if kind == "login" and self.path != "/login/page":
            self.send_response(302)
            self.send_header("Location", "/login/page")
        elif kind == "other" and self.path.endswith("/health"):
            self.send_response(200)
        else:
            self.send_response({"login": 200, "page": 200, "closed": 403}.get(kind, 404))
        body = b"OK" if self.path.endswith("/health") and kind in ("other", "late") else b"<html>who are you?</html>"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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


@pytest.mark.parametrize("kind", ["page", "login"])
def test_a_proxy_that_answers_with_its_login_page(kind: str, stranger: str) -> None:
    with pytest.raises(RegistryUnreachable, match="GET /health gave a page, but MLflow gives OK: a proxy") as caught:
        ExpertRegistry(f"{stranger}/{kind}")
    assert caught.value.reason == "it does not answer as MLflow does"
    assert "who are you" not in str(caught.value)


def test_a_proxy_that_lets_nobody_in(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    with pytest.raises(AccessDenied, match="user 'ann' may not read"):
        ExpertRegistry(f"{stranger}/closed")


def test_another_program_that_is_healthy(stranger: str) -> None:
    registry = ExpertRegistry(f"{stranger}/other")
    with pytest.raises(RegistryUnreachable, match=r"gave status 404 at .*, where MLflow answers") as caught:
        registry.list()
    assert "another program" in caught.value.remedy


def test_a_login_page_in_the_middle_of_the_work(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The login that a proxy wants ended after the registry was opened."""
    registry = ExpertRegistry(f"{stranger}/other")
    monkeypatch.setattr(registry._client._tracking_client.store, "get_host_creds", lambda: _creds(f"{stranger}/page"))
    with pytest.raises(RegistryUnreachable, match="gave a page instead of data") as caught:
        registry.metrics("0" * 32)
    assert "who are you" not in str(caught.value)


def _creds(url: str) -> object:
    from mlflow.utils.credentials import get_default_host_creds

    return get_default_host_creds(url)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("revision", "age", "remedy"),
    [("bf29a5ff90ea", "an older", "mlflow db upgrade"), ("ffffffffffff", "a newer", "goes forward only")],
)
def test_the_tables_of_another_mlflow_are_refused_and_stay(
    revision: str, age: str, remedy: str, root: Path, registry: ExpertRegistry
) -> None:
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        # A table that an older one lacks, and that MLflow's client would make without asking.
        database.execute("DROP TABLE registered_model_aliases")
        database.commit()
    before = (root / "mlflow.db").read_bytes()
    for reading in (True, False):
        with pytest.raises(RegistryError, match=f"its tables are of {age} MLflow .revision {revision}") as caught:
            ExpertRegistry(root=root, reading=reading)
        assert remedy in caught.value.remedy
    assert (root / "mlflow.db").read_bytes() == before


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


@pytest.mark.parametrize("password", ["wo[rd", "wo/rd", "wo@/rd"])
def test_library_texts_show_no_password_that_was_not_encoded(password: str) -> None:
    uri = f"postgresql://ann:{password}@db/mlflow"
    assert redact(f"{uri} and {password}", uri) == "postgresql://*** and ***"


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
