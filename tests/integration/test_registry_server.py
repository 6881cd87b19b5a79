"""Drill: a team's registry on one machine, started twice at once, killed, and moved.

The servers are real ones: the system's PostgreSQL (``make postgres`` installs it), moto's S3 and MLflow's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
import pytest
import torch
import yaml

from zfleet.errors import CorruptArtifact, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance
from zfleet_registry.move_store import move_store
from zfleet_registry.schema import check_tables
from zfleet_registry.server import ServerOptions, start
from zfleet_registry.server.postgres import postgres
from zfleet_registry.server.processes import free_port
from zfleet_registry.server.secrets import secret
from zfleet_registry.server.stand_in import stand_in_s3
from zfleet_registry.server.tracking import ADMIN, ADMIN_PASSWORD

pytestmark = pytest.mark.drill

SLUG = "lab-1a2b3c4d"
COMPOSE = Path(__file__).parents[2] / "infra" / "registry" / "compose.yaml"


def put(registry: ExpertRegistry, seed: float) -> ExpertVersion:
    values = {"model.layers.0.mlp.up_proj": torch.linspace(0.5, 1.5, 8) + seed}
    z = ZVector(values, "1a2b3c4d" * 8, "f" * 64, "mlp")
    return registry.register("math", z, Provenance.of(z), base_name="lab", alias="champion")


@pytest.fixture
def folder(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for PostgreSQL; no proxy, and no other user's credentials."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(open_folder))
    return open_folder


@pytest.fixture
def as_admin(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret(folder / "team", ADMIN_PASSWORD))


@pytest.fixture
def s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of moto's S3, which MLflow finds by the environment."""
    with stand_in_s3(folder) as (_, environment, _):
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        client = boto3.client("s3", endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"])
        yield client
        client.close()


def up(folder: Path, port: int, *options: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("zfleet")), "registry", "up", str(folder), "--port", str(port)]
    return subprocess.Popen([*command, "--workers", "1", *options], stdout=subprocess.PIPE, text=True)


def wait_until_up(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().startswith("registry http://"), "it did not start"


@pytest.mark.usefixtures("as_admin")
def test_a_registry_of_the_first_start_is_there_after_a_kill(folder: Path) -> None:
    team, port = folder / "team", free_port()
    process = up(team, port)
    wait_until_up(process)
    with pytest.raises(RegistryError, match="another process runs the registry"):
        start(team, ServerOptions(port=free_port()))
    family = psutil.Process(process.pid).children(recursive=True)
    password = secret(team, "postgres")
    lines = [" ".join(member.cmdline()) for member in family]
    assert any("postgres" in line for line in lines)
    assert not any(password in line or secret(team, ADMIN_PASSWORD) in line for line in lines)
    assert not [file for file in (team / "secrets").iterdir() if file.stat().st_mode & 0o077]
    registry = ExpertRegistry(f"http://127.0.0.1:{port}")
    version = put(registry, 1)
    process.kill()
    process.communicate()
    _, left = psutil.wait_procs(family, timeout=120)
    assert not left, "processes were left behind"

    running = start(team, ServerOptions(port=port, workers=1))
    try:
        champion = registry.resolve("math@champion", SLUG)
        assert champion.version == version.version
        assert registry.load(champion).digest == version.z_digest
    finally:
        running.stop()
    assert not psutil.Process().children(recursive=True)


@pytest.mark.usefixtures("as_admin")
def test_two_servers_start_at_once_on_an_empty_database(folder: Path, s3: Any) -> None:
    with postgres(folder / "database") as (uri, _):
        for name in ("team", "second"):
            # Servers of one registry have the same passwords.
            (folder / name / "secrets").mkdir(parents=True, exist_ok=True, mode=0o700)
            for file in ("cookies", ADMIN_PASSWORD):
                copy = folder / name / "secrets" / file
                copy.write_text(secret(folder / "team", file))
                copy.chmod(0o600)
        ports = (free_port(), free_port())
        options = ("--database", uri, "--artifacts", "s3://experts")
        servers = [up(folder / name, port, *options) for name, port in zip(("team", "second"), ports, strict=True)]
        for server in servers:
            wait_until_up(server)
        one, two = (ExpertRegistry(f"http://127.0.0.1:{port}") for port in ports)
        for seed, registry in enumerate((one, two)):
            put(registry, seed)
        assert [two.load(version).digest for version in one.list()] == [version.z_digest for version in two.list()]
        assert len(one.list()) == 2
        kept = [item["Key"] for item in s3.list_objects_v2(Bucket="experts")["Contents"]]
        assert sum(key.endswith("z.safetensors") for key in kept) == 2
        for server in servers:
            server.send_signal(signal.SIGTERM)
        assert [server.communicate(timeout=60)[0].splitlines()[-1] for server in servers] == ["stopping", "stopping"]
        assert [server.returncode for server in servers] == [130, 130]


def test_what_compose_prepares_is_there_and_once(folder: Path, s3: Any) -> None:
    command = yaml.safe_load(COMPOSE.read_text())["services"]["prepare"]["command"]
    with postgres(folder / "database") as (uri, _):
        script = [part.replace("$$", "$") for part in command]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        places = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_ARTIFACTS_DESTINATION": "s3://prepared"}
        for _ in range(2):
            subprocess.run(script, env={**os.environ, **places, "PATH": path}, check=True)
        check_tables(uri, uri)
        with psycopg.connect(uri.replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
    assert "prepared" in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]


def test_artifacts_of_a_database_are_moved_to_a_bucket(folder: Path, s3: Any) -> None:
    with postgres(folder / "database") as (uri, _):
        registry = ExpertRegistry(uri, folder / "root")
        version = put(registry, 1)
        old = folder / "root" / "artifacts"
        files = [path for path in old.rglob("*") if path.is_file()]
        for path in files:
            s3.upload_file(str(path), "experts", str(path.relative_to(old)))
        old.rename(folder / "gone")
        with pytest.raises(CorruptArtifact, match="zfleet registry move OLD NEW"):
            registry.load(version)
        move_store(uri, str(old), "s3://experts")
        again = ExpertRegistry(uri, folder / "root")
        assert again.load(again.resolve("math@champion", SLUG)).digest == version.z_digest
        assert again.load(put(again, 2)).digest != version.z_digest


def test_tables_of_an_older_mlflow_are_changed_only_if_asked(folder: Path) -> None:
    with postgres(folder / "database") as (uri, _):
        check_tables(uri, uri)
        with psycopg.connect(uri.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE DATABASE foreign_one")
            connection.execute("UPDATE alembic_version SET version_num = 'bf29a5ff90ea'")
        with pytest.raises(RegistryError, match="an older MLflow") as caught:
            ExpertRegistry(uri, folder / "root")
        assert "back it up" in caught.value.remedy
        other = uri.replace("/mlflow", "/foreign_one")
        with psycopg.connect(other.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE TABLE invoices (id int)")
        with pytest.raises(RegistryError, match="tables of another program"):
            ExpertRegistry(other, folder / "root")
